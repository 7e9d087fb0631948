//! One client's connection and its way to the broker: a thread for each direction, and what is held between them.
//! Obeys the proxy's rules; never makes any.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use kafka_protocol::messages::ApiKey;

use super::frames::{self, Request};
use super::{LateAnswer, Quota, Shared, lock};

/// How long the broker may take for what was released after its client had gone.
const LATE: Duration = Duration::from_secs(30);

pub(super) struct Connection {
    client: TcpStream,
    broker: TcpStream,
    state: Mutex<State>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct State {
    /// The held request and everything that came behind it.
    held: VecDeque<Vec<u8>>,
    /// Requests that wait for their answers, by correlation id; whether the answer is to be lost.
    asked: HashMap<i32, (Request, Fate)>,
    client_gone: bool,
    over: bool,
}

/// What is to become of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passed,
    Lost,
}

impl Connection {
    pub(super) fn open(client: TcpStream, shared: Arc<Shared>) -> io::Result<Arc<Self>> {
        let broker = TcpStream::connect(shared.broker)?;
        for stream in [&client, &broker] {
            stream.set_nodelay(true)?;
        }
        let connection = Arc::new(Self { client, broker, state: Mutex::default(), shared });
        let (there, back) = (connection.clone(), connection.clone());
        thread::Builder::new().name("proxy-requests".into()).spawn(move || {
            // However it ends: the client is gone.
            let _ = there.requests();
            there.client_has_gone();
        })?;
        thread::Builder::new().name("proxy-answers".into()).spawn(move || {
            let _ = back.answers();
            back.end();
        })?;
        Ok(connection)
    }

    pub(super) fn held(&self) -> usize {
        lock(&self.state).held.len()
    }

    pub(super) fn is_held_by(&self, api: ApiKey) -> bool {
        let state = lock(&self.state);
        let first = state.held.front().and_then(|frame| Request::of(frame).ok());
        first.is_some_and(|request| request.api == api as i16)
    }

    pub(super) fn is_over(&self) -> bool {
        lock(&self.state).over
    }

    /// The client's side ends; the broker's too, unless something is held for it.
    pub(super) fn cut(&self) {
        let _ = self.client.shutdown(Shutdown::Both);
    }

    /// Both sides end.
    pub(super) fn end(&self) {
        let mut state = lock(&self.state);
        state.over = true;
        state.held.clear();
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.broker.shutdown(Shutdown::Both);
    }

    /// What is held goes to the broker, in its order.
    pub(super) fn release(&self) -> usize {
        let mut state = lock(&self.state);
        let count = state.held.len();
        while let Some(frame) = state.held.pop_front() {
            if frames::write(&mut &self.broker, &frame).is_err() {
                state.held.clear();
            }
        }
        if count > 0 && state.client_gone {
            let _ = self.broker.set_read_timeout(Some(LATE));
        }
        count
    }

    fn client_has_gone(&self) {
        let mut state = lock(&self.state);
        state.client_gone = true;
        if state.held.is_empty() {
            let _ = self.broker.shutdown(Shutdown::Both);
        }
        let _ = self.client.shutdown(Shutdown::Both);
    }

    fn requests(&self) -> io::Result<()> {
        while let Some(frame) = frames::read(&mut &self.client)? {
            let delay = lock(&self.shared.rules).delay;
            if !delay.is_zero() {
                thread::sleep(delay);
            }
            self.shared.pass();
            let request = Request::of(&frame)?;
            let (hold, lose) = {
                let mut rules = lock(&self.shared.rules);
                (Quota::take(&mut rules.hold, request.api), Quota::take(&mut rules.lose, request.api))
            };
            let mut state = lock(&self.state);
            state.asked.insert(request.correlation, (request, if lose { Fate::Lost } else { Fate::Passed }));
            if hold || !state.held.is_empty() {
                state.held.push_back(frame);
            } else {
                frames::write(&mut &self.broker, &frame)?;
            }
        }
        Ok(())
    }

    fn answers(&self) -> io::Result<()> {
        while let Some(frame) = frames::read(&mut &self.broker)? {
            self.shared.pass();
            let correlation = frames::correlation(&frame)?;
            let (asked, gone, waiting) = {
                let mut state = lock(&self.state);
                let asked = state.asked.remove(&correlation);
                (asked, state.client_gone, state.held.len() + state.asked.len())
            };
            let Some((request, fate)) = asked else {
                return Err(io::Error::other(format!("an answer to nothing that was asked: {correlation}")));
            };
            if gone {
                if let Ok(api) = ApiKey::try_from(request.api) {
                    lock(&self.shared.late).push(LateAnswer { api, frame });
                }
                if waiting == 0 {
                    return Ok(());
                }
                continue;
            }
            if fate == Fate::Lost {
                *lock(&self.shared.lost) += 1;
                return Ok(());
            }
            let frame = frames::rewrite(request, frame, &self.shared.routes).map_err(io::Error::other)?;
            let mut client = &self.client;
            // A client that is gone is noticed by the other thread.
            let _ = frames::write(&mut client, &frame).and_then(|()| client.flush());
        }
        Ok(())
    }
}
