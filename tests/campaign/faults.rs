//! How each kind of fault is done and healed. Whatever is drawn on the way comes from the campaign's seed.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use millrace_chaos::proxy::ApiKey;
use millrace_chaos::{Draw, Kind};

use super::Campaign;
use super::ground::{Role, SESSION};
use super::provider_door::Manner;
use crate::support::processes::Process;

const SECOND: Duration = Duration::from_secs(1);

/// How long the proxies wait for a request that a fault is about.
const UNTIL_ASKED: Duration = Duration::from_secs(30);

/// Injects one fault, lets it last, heals it. Gives whether it met anything: a request to hold may not come.
///
/// # Errors
/// What Millrace did that it must not do.
pub fn inject(campaign: &mut Campaign, kind: Kind) -> Result<bool, String> {
    let mut draw = Draw::new(campaign.draw.bits());
    let short = draw.between(Duration::ZERO, 3 * SECOND);
    let workers = campaign.ground.workers();
    let worker = workers[draw.below(workers.len())].clone();
    match kind {
        Kind::KillWorker => kill_and_restart(campaign, &worker, short),
        Kind::KillIngress => end_and_restart(campaign, &Role::Ingress, short, &mut draw)?,
        Kind::KillWarehouse => end_and_restart(campaign, &Role::Warehouse, short, &mut draw)?,
        Kind::KillProvider => end_and_restart(campaign, &Role::Provider, short, &mut draw)?,
        Kind::StopWorker => stop_and_restart(campaign, &worker, short)?,
        Kind::PauseWorker => {
            campaign.ground.process(&worker).signal("STOP");
            campaign.rest(SESSION + 2 * SECOND);
            campaign.ground.process(&worker).signal("CONT");
            campaign.rest(SECOND);
        }
        Kind::ScaleWorkers => scale(campaign, &worker, &mut draw)?,
        Kind::KillBroker => {
            let node = draw.below(campaign.ground.kafka.len());
            campaign.ground.kafka[node].kill9();
            campaign.rest(short);
            campaign.ground.kafka[node].restart();
        }
        Kind::RollBrokers => {
            for node in 0..campaign.ground.kafka.len() {
                campaign.ground.kafka[node].restart();
                campaign.rest(short);
            }
        }
        Kind::CutConnections => {
            for _ in 0..1 + draw.below(4) {
                campaign.ground.proxies.iter().for_each(millrace_chaos::Proxy::cut);
                campaign.rest(draw.between(Duration::from_millis(50), SECOND));
            }
        }
        Kind::StallConnections => {
            campaign.ground.proxies.iter().for_each(millrace_chaos::Proxy::stall);
            campaign.rest(draw.between(SECOND, SESSION + 2 * SECOND));
            campaign.ground.proxies.iter().for_each(millrace_chaos::Proxy::resume);
        }
        Kind::HoldEndTxn => return Ok(hold(campaign, ApiKey::EndTxn, short)),
        Kind::HoldTxnOffsetCommit => return Ok(hold(campaign, ApiKey::TxnOffsetCommit, short)),
        Kind::LoseAnswers => return Ok(lose_answers(campaign)),
        Kind::DiskFull => {
            campaign.ground.process(&worker).limit_files(Some(1));
            campaign.rest(4 * SECOND + short);
            // It may have ended meanwhile, and started again without a limit.
            campaign.ground.process(&worker).limit_files(None);
        }
        Kind::CorruptState => {
            let Role::Worker(name) = &worker else { return Ok(false) };
            campaign.ground.kill(&worker);
            corrupt(&campaign.ground.state_of(name), &mut draw);
            campaign.ground.launch(&worker);
        }
        Kind::LoseState => {
            let Role::Worker(name) = &worker else { return Ok(false) };
            campaign.ground.kill(&worker);
            let _ = std::fs::remove_dir_all(campaign.ground.state_of(name));
            campaign.ground.launch(&worker);
        }
        Kind::SlowProvider => behave(campaign, Manner::Slow(Duration::from_millis(800)), 4 * SECOND + short),
        // Longer than a worker waits for an answer.
        Kind::SilentProvider => behave(campaign, Manner::Silent, 11 * SECOND),
        Kind::WrongProvider => behave(campaign, Manner::Wrong, 3 * SECOND + short),
        Kind::WrongPartitions => wrong_partitions(campaign)?,
        Kind::RegistryDown => {
            campaign.ground.kill(&Role::Registry);
            campaign.ground.kill(&worker);
            campaign.ground.launch(&worker);
            campaign.rest(2 * SECOND + short);
            campaign.ground.launch(&Role::Registry);
        }
    }
    Ok(true)
}

fn kill_and_restart(campaign: &mut Campaign, role: &Role, pause: Duration) {
    campaign.ground.kill(role);
    campaign.rest(pause);
    campaign.ground.launch(role);
}

/// Told to end, which it must do in good order.
fn stop_and_restart(campaign: &mut Campaign, role: &Role, pause: Duration) -> Result<(), String> {
    let code = campaign.ground.stop(role);
    campaign.rest(pause);
    campaign.ground.launch(role);
    if code == Some(0) { Ok(()) } else { Err(format!("{role:?} was told to end and ended with {code:?}")) }
}

/// Killed or told to end, as it is drawn.
fn end_and_restart(campaign: &mut Campaign, role: &Role, pause: Duration, draw: &mut Draw) -> Result<(), String> {
    if draw.below(2) == 0 {
        return stop_and_restart(campaign, role, pause);
    }
    kill_and_restart(campaign, role, pause);
    Ok(())
}

/// One, three, one, and back to what it was.
fn scale(campaign: &mut Campaign, keep: &Role, draw: &mut Draw) -> Result<(), String> {
    let before = campaign.ground.workers();
    let wanted: Vec<Role> = ["w1", "w2", "w3"].map(|name| Role::Worker(name.to_owned())).into();
    let mut codes = Vec::new();
    for role in before.iter().filter(|role| *role != keep) {
        codes.push(campaign.ground.stop(role));
    }
    campaign.rest(draw.between(SECOND, 2 * SECOND));
    for role in wanted.iter().filter(|role| *role != keep) {
        campaign.ground.launch(role);
    }
    campaign.rest(draw.between(4 * SECOND, 6 * SECOND));
    for role in wanted.iter().filter(|role| *role != keep) {
        codes.push(campaign.ground.stop(role));
    }
    campaign.rest(draw.between(SECOND, 2 * SECOND));
    for role in before.iter().filter(|role| *role != keep) {
        campaign.ground.launch(role);
    }
    if codes.iter().all(|code| *code == Some(0)) {
        Ok(())
    } else {
        Err(format!("workers were told to end and ended with {codes:?}"))
    }
}

/// The next request of this kind at each broker is held until its client has lost its connection and gone on.
/// Gives whether there was one.
fn hold(campaign: &mut Campaign, api: ApiKey, after: Duration) -> bool {
    campaign.ground.proxies.iter().for_each(|proxy| proxy.hold(api, 1));
    let held = until(campaign, |campaign| campaign.ground.proxies.iter().any(|proxy| proxy.held_of(api) > 0));
    campaign.ground.proxies.iter().for_each(millrace_chaos::Proxy::cut);
    campaign.rest(after);
    campaign.ground.proxies.iter().for_each(|proxy| {
        proxy.release();
    });
    held
}

/// The next answer to each kind of request is lost, one kind after the other. Gives whether all kinds came.
fn lose_answers(campaign: &mut Campaign) -> bool {
    let lost = |campaign: &Campaign| campaign.ground.proxies.iter().map(millrace_chaos::Proxy::lost).sum::<usize>();
    let mut all = true;
    for api in [ApiKey::EndTxn, ApiKey::TxnOffsetCommit, ApiKey::Produce, ApiKey::AddPartitionsToTxn] {
        let before = lost(campaign);
        campaign.ground.proxies.iter().for_each(|proxy| proxy.lose_answers(api, 1));
        all &= until(campaign, |campaign| lost(campaign) > before);
        campaign.rest(SECOND);
    }
    campaign.ground.proxies.iter().for_each(millrace_chaos::Proxy::heal);
    all
}

/// Waits for what clients do by themselves; gives whether they did it in time.
fn until(campaign: &mut Campaign, done: impl Fn(&Campaign) -> bool) -> bool {
    let since = Instant::now();
    while !done(campaign) {
        if since.elapsed() > UNTIL_ASKED {
            return false;
        }
        campaign.rest(Duration::from_millis(10));
    }
    true
}

fn behave(campaign: &mut Campaign, manner: Manner, how_long: Duration) {
    campaign.ground.door.behave(manner);
    campaign.rest(how_long);
    campaign.ground.door.behave(Manner::Plain);
}

/// Overwrites some bytes in every file.
fn corrupt(dir: &Path, draw: &mut Draw) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            corrupt(&path, draw);
        } else if let Ok(mut file) = std::fs::OpenOptions::new().write(true).open(&path) {
            let length = file.metadata().map_or(0, |metadata| metadata.len());
            let at = draw.below(usize::try_from(length).unwrap_or(0)) as u64;
            let noise: Vec<u8> = (0..64).map(|_| draw.bits().to_le_bytes()[0]).collect();
            let most = usize::try_from(length - at).unwrap_or(0).min(noise.len());
            file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(&noise[..most])).unwrap();
        }
    }
}

/// A worker whose topology has other partition counts than the cluster must refuse, and say why.
fn wrong_partitions(campaign: &mut Campaign) -> Result<(), String> {
    let ground = &campaign.ground;
    let file = "wrong-topology.toml";
    let right = include_str!("../../topology.toml");
    std::fs::write(ground.dir().join(file), right.replace("partitions = 4", "partitions = 8")).unwrap();
    let args = ground.worker_args("wrong", file);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut wrong = Process::start(ground.dir(), "wrong", &args);
    let since = Instant::now();
    while wrong.is_alive() {
        if since.elapsed() > 60 * SECOND {
            return Err("a worker with other partition counts does not refuse".into());
        }
        campaign.rest(Duration::from_millis(100));
    }
    let (code, said) = wrong.until_it_ends(SECOND);
    if code == Some(0) || !said.contains("partitions") {
        return Err(format!("a worker with other partition counts ended with {code:?} and said:\n{said}"));
    }
    Ok(())
}
