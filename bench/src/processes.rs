//! The processes of one contender: the first, those that join it, how they end, and what they use together. Owns which
//! there are; never sends them anything.

use crate::contender::{Contender, Running};
use crate::ground::Ground;
use crate::process::Usage;

/// Their names, in the order they join.
const NAMES: [&str; 4] = ["one", "two", "three", "four"];

/// See the module.
pub(crate) struct Processes {
    contender: Contender,
    /// CPUs of each, as `taskset` names them.
    cpus: Option<String>,
    running: Vec<Running>,
    /// CPU-seconds of those that have ended.
    before: f64,
    /// Whether there was ever more than one at a time.
    several: bool,
}

/// What happens to the processes while orders go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Another is started.
    Join,
    /// The last is asked to end (SIGTERM).
    Leave,
    /// The last is killed (SIGKILL).
    Kill,
}

impl Processes {
    pub(crate) fn of(contender: &Contender, cpus: Option<&str>) -> Self {
        let cpus = cpus.map(str::to_owned);
        Self { contender: contender.clone(), cpus, running: Vec::new(), before: 0.0, several: false }
    }

    pub(crate) fn contender(&self) -> &Contender {
        &self.contender
    }

    pub(crate) fn change(&mut self, ground: &Ground, change: Change) -> anyhow::Result<()> {
        match change {
            Change::Join => self.join(ground),
            Change::Leave => self.leave(),
            Change::Kill => {
                self.kill();
                Ok(())
            }
        }
    }

    /// Starts another, on the disk that one of its name left.
    pub(crate) fn join(&mut self, ground: &Ground) -> anyhow::Result<()> {
        let name = NAMES.get(self.running.len()).copied();
        let name = name.ok_or_else(|| anyhow::anyhow!("{} processes are the most", NAMES.len()))?;
        self.running.push(self.contender.start(ground, name, self.cpus.as_deref())?);
        self.several |= self.running.len() > 1;
        Ok(())
    }

    /// Asks the last to end and waits until it has.
    pub(crate) fn leave(&mut self) -> anyhow::Result<()> {
        match self.last() {
            Some(last) => last.process.stop(),
            None => Ok(()),
        }
    }

    /// Ends the last at once, as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        if let Some(last) = self.last() {
            last.process.kill();
        }
    }

    fn last(&mut self) -> Option<Running> {
        let last = self.running.pop()?;
        self.before += Usage::of(last.process.pid()).cpu_seconds;
        Some(last)
    }

    /// Asks all to end, the last first.
    pub(crate) fn leave_all(&mut self) -> anyhow::Result<()> {
        while !self.running.is_empty() {
            self.leave()?;
        }
        Ok(())
    }

    /// An error when one has ended by itself.
    pub(crate) fn are_alive(&mut self) -> anyhow::Result<()> {
        self.running.iter_mut().try_for_each(|running| running.process.is_alive())
    }

    /// What they have used together, ended ones included, and have resident.
    pub(crate) fn usage(&self) -> Usage {
        let start = Usage { cpu_seconds: self.before, ..Usage::default() };
        self.running.iter().map(|running| Usage::of(running.process.pid())).fold(start, |sum, one| Usage {
            cpu_seconds: sum.cpu_seconds + one.cpu_seconds,
            resident_mib: sum.resident_mib + one.resident_mib,
            peak_resident_mib: sum.peak_resident_mib + one.peak_resident_mib,
        })
    }

    /// Where the ledger of their provider can be read. Each process has a provider of its own: of several there is not one
    /// ledger that has it all.
    pub(crate) fn psp(&self) -> Option<&str> {
        if self.several { None } else { self.running.first()?.psp.as_deref() }
    }
}
