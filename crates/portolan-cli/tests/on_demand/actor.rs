//! A process of a job: it tells the test that it is there, and does what it is told.

use std::collections::HashMap;
use std::time::Duration;

use portolan::bootstrap::{Bootstrap, BootstrapError};
use portolan::{Message, ReceiveRight, SendRight, ServiceName, Timeout};

/// The environment variable that makes this program a job.
pub(crate) const VARIABLE: &str = "PORTOLAN_TEST_ACTOR";

/// Where the test listens for its jobs.
pub(crate) const DIRECTOR: &str = "test.director";

/// What an actor is told: the id of a message whose bytes are a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    CheckIn,
    CheckInStrict,
    /// Makes a port and registers a right to it.
    Register,
    RegisterPerPid,
    Unregister,
    LookUp,
    /// 1 for a service that is active, 2 for one on demand.
    Status,
    /// Receives a message, tells its id, and never answers it.
    Receive,
    /// Answers the first request that it has received, with the same id.
    Answer,
    /// Tells the ids of the messages that are there, without waiting for any.
    ReceiveAll,
    /// Gives the receive right away.
    Give,
    /// Closes the receive right.
    Close,
    /// Makes a namespace for as long as this process lives, and gives the right to it.
    Subset,
    /// 1 if it may exit.
    TryExit,
    /// Exits with the status that stands in the place of a name.
    Exit,
}

impl Verb {
    const ALL: [Self; 15] = [
        Self::CheckIn,
        Self::CheckInStrict,
        Self::Register,
        Self::RegisterPerPid,
        Self::Unregister,
        Self::LookUp,
        Self::Status,
        Self::Receive,
        Self::Answer,
        Self::ReceiveAll,
        Self::Give,
        Self::Close,
        Self::Subset,
        Self::TryExit,
        Self::Exit,
    ];

    fn of(id: i32) -> Self {
        let known = Self::ALL.into_iter().find(|verb| *verb as i32 == id);
        known.expect("a verb")
    }
}

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Introduces this process, and obeys until nobody can tell it anything any more.
pub(crate) fn act() {
    let bootstrap = Bootstrap::from_env().expect("the inherited right");
    let director = look_up(&bootstrap, DIRECTOR).expect("the test listens");
    let orders = ReceiveRight::new().expect("port");
    let introduction = Message::new(0)
        .with_bytes(std::process::id().to_le_bytes())
        .with_right(orders.make_send().expect("right"));
    director.send(introduction, PATIENCE).expect("introduce");
    orders.request_no_senders(1);
    let mut actor = Actor {
        bootstrap,
        ports: HashMap::new(),
        read: Vec::new(),
    };
    loop {
        let mut order = orders.receive(PATIENCE).expect("an order");
        if order.notification().is_some() {
            return;
        }
        let text = String::from_utf8(order.bytes().to_vec()).expect("text");
        let answer = match actor.obey(Verb::of(order.id()), &text) {
            Ok(answer) => answer,
            Err(error) => Message::new(error.code().expect("an answer of the server").raw()),
        };
        let reply = order.take_reply().expect("reply right");
        reply.send(answer).expect("answer");
    }
}

struct Actor {
    bootstrap: Bootstrap,
    ports: HashMap<String, ReceiveRight>,
    /// Kept, so that nobody is answered.
    read: Vec<Message>,
}

impl Actor {
    fn obey(&mut self, verb: Verb, text: &str) -> Result<Message, BootstrapError> {
        let name = || text.parse::<ServiceName>().expect("name");
        match verb {
            Verb::CheckIn => {
                let port = self.bootstrap.check_in(&name())?;
                self.ports.insert(text.to_owned(), port);
            }
            Verb::CheckInStrict => {
                let port = self.bootstrap.check_in_strict(&name())?;
                self.ports.insert(text.to_owned(), port);
            }
            Verb::Register => self.register(text, Bootstrap::register)?,
            Verb::RegisterPerPid => self.register(text, Bootstrap::register_per_pid)?,
            Verb::Unregister => self.bootstrap.unregister(&name())?,
            Verb::LookUp => drop(look_up(&self.bootstrap, text)?),
            Verb::Status => {
                let status = self.bootstrap.status(&name())?;
                return Ok(numbers([status.raw() as i32]));
            }
            Verb::Receive => {
                let message = self.port(text).receive(PATIENCE).expect("a message");
                let id = message.id();
                self.read.push(message);
                return Ok(numbers([id]));
            }
            Verb::Answer => {
                let mut requests = self.read.iter_mut();
                let owed = |message: &mut Message| Some((message.id(), message.take_reply()?));
                let (id, reply) = requests.find_map(owed).expect("a request");
                reply.send(Message::new(id)).expect("answer");
            }
            Verb::ReceiveAll => return Ok(numbers(self.receive_all(text))),
            Verb::Give => {
                let port = self.ports.remove(text).expect("a port of this name");
                return Ok(Message::new(0).with_right(port));
            }
            Verb::Close => drop(self.ports.remove(text).expect("a port of this name")),
            Verb::Subset => return self.subset(),
            Verb::TryExit => return Ok(numbers([i32::from(self.bootstrap.try_exit()?)])),
            Verb::Exit => std::process::exit(text.parse().expect("a status")),
        }
        Ok(Message::new(0))
    }

    fn port(&self, text: &str) -> &ReceiveRight {
        self.ports.get(text).expect("a port of this name")
    }

    fn register(
        &mut self,
        text: &str,
        register: impl Fn(&Bootstrap, &ServiceName, SendRight) -> Result<(), BootstrapError>,
    ) -> Result<(), BootstrapError> {
        let port = ReceiveRight::new().expect("port");
        let right = port.make_send().expect("right");
        register(&self.bootstrap, &text.parse().expect("name"), right)?;
        self.ports.insert(text.to_owned(), port);
        Ok(())
    }

    fn receive_all(&mut self, text: &str) -> Vec<i32> {
        let port = self.port(text);
        let next = || port.receive(Timeout::POLL).ok();
        let messages: Vec<_> = std::iter::from_fn(next).collect();
        let ids = messages.iter().map(Message::id).collect();
        self.read.extend(messages);
        ids
    }

    fn subset(&mut self) -> Result<Message, BootstrapError> {
        let requestor = ReceiveRight::new().expect("port");
        let right = requestor.make_send().expect("right");
        let subset = self.bootstrap.subset(right)?;
        self.ports.insert("requestor".to_owned(), requestor);
        Ok(Message::new(0).with_right(subset.into_right()))
    }
}

fn look_up(bootstrap: &Bootstrap, text: &str) -> Result<SendRight, BootstrapError> {
    bootstrap.look_up(&text.parse().expect("name"))
}

fn numbers(numbers: impl IntoIterator<Item = i32>) -> Message {
    let bytes = numbers.into_iter().flat_map(i32::to_le_bytes);
    Message::new(0).with_bytes(bytes.collect::<Vec<_>>())
}
