//! Messages and rights between processes, and what is left when one of them is gone.

mod flavour;
mod warm_up;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use flavour::right_to;
use portolan_port::{
    Message, ReceiveError, ReceiveRight, ReplyError, Right, SendErrorKind, SendRight, Timeout,
};
use portolan_testkit::flavour::Flavour;
use portolan_testkit::in_both_flavours;
use portolan_testkit::process::{self, Process, play};
use portolan_testkit::{soak, usage, wait};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Resource;
use warm_up::{answer_warm_up, receive, warm_up};

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Timeout = Timeout::after(Duration::from_secs(20));

/// Where the other processes begin; nothing to do in the one that runs the tests.
#[test]
fn play_a_part() {
    let Some((part, socket)) = process::part() else {
        return;
    };
    let (part, flavour) = match part.split_once(" over a ring") {
        Some((part, "")) => (part, Flavour::Ring),
        _ => (part.as_str(), Flavour::Socket),
    };
    match part {
        "send one" => send_one(&right_from(socket, flavour)),
        "ask" => ask(&right_from(socket, flavour)),
        "hold requests" => hold_requests(&port_from(socket, flavour)),
        "pass rights on" => pass_rights_on(&right_from(socket, flavour), flavour),
        "use what comes" => use_what_comes(&port_from(socket, flavour), flavour),
        "keep a duplicate" => keep_a_duplicate(&right_from(socket, flavour)),
        "answer all" => answer_all(&port_from(socket, flavour)),
        "answer all with few descriptors" => {
            limit_descriptors(200);
            answer_all(&port_from(socket, flavour));
        }
        "work for ever" => work_for_ever(&port_from(socket, flavour)),
        "ask many times" => ask_many_times(flavour),
        "receive without descriptors" => receive_without_descriptors(flavour),
        "answer without descriptors" => answer_without_descriptors(),
        other => panic!("no part {other}"),
    }
}

/// A right to a port that warm-ups are answered at.
fn right_from(socket: OwnedFd, flavour: Flavour) -> SendRight {
    let right = SendRight::from_socket(socket).expect("a right");
    warm_up(&right, flavour);
    right
}

fn port_from(socket: OwnedFd, flavour: Flavour) -> ReceiveRight {
    let port = ReceiveRight::new().expect("port");
    port.adopt(socket, 0).expect("adopt");
    answer_warm_up(&port, flavour);
    port
}

/// The same part with rights in this flavour.
fn part_over(flavour: Flavour, part: &str) -> String {
    match flavour {
        Flavour::Socket => part.to_owned(),
        Flavour::Ring => format!("{part} over a ring"),
    }
}

/// Another process with a send right to `port`.
fn client(part: &str, port: &ReceiveRight, flavour: Flavour) -> Process {
    let right = port.make_send().expect("send right");
    let socket = right.into_socket().expect("unused");
    let process = play(&part_over(flavour, part), socket);
    answer_warm_up(port, flavour);
    process
}

/// Another process with a port, and a right to it.
fn server(part: &str, flavour: Flavour) -> (Process, SendRight) {
    let (here, there) = pair();
    let process = play(&part_over(flavour, part), there);
    (process, right_from(here, flavour))
}

fn pair() -> (OwnedFd, OwnedFd) {
    let kind = SocketType::SEQPACKET;
    let pair = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
    pair.expect("socketpair")
}

fn port() -> ReceiveRight {
    ReceiveRight::new().expect("port")
}

fn answer(request: &mut Message, answer: Message) {
    let reply = request.take_reply().expect("reply right");
    reply.send(answer).expect("answer");
}

fn take_sends(message: &mut Message) -> Vec<SendRight> {
    let rights = message.take_rights().into_iter();
    rights
        .map(|right| match right {
            Right::Send(right) => right,
            other => panic!("expected a send right, got {other:?}"),
        })
        .collect()
}

fn pid_of(message: &Message) -> u32 {
    let sender = message.sender().expect("sender");
    sender.pid().expect("visible here")
}

fn is_readable(fd: impl AsFd) -> bool {
    wait::is_readable(fd, Duration::ZERO)
}

/// Linux 6.5 and later.
fn kernel_passes_pidfds() -> bool {
    portolan_sys::ancillary::pass_pidfd(pair().0, true).is_ok()
}

in_both_flavours!(the_tests_get_the_flavour_that_they_ask_for);

fn the_tests_get_the_flavour_that_they_ask_for(flavour: Flavour) {
    let (mut other, right) = server("answer all", flavour);
    assert_eq!(Flavour::of(&right), flavour);
    drop(right);
    other.finish();
}

/// A client in this process is served.
fn assert_served(port: &ReceiveRight, client: &SendRight) {
    let pending = client
        .begin_request(Message::new(100), PATIENCE)
        .expect("send");
    let mut request = port.receive(PATIENCE).expect("receive");
    assert_eq!(request.id(), 100);
    answer(&mut request, Message::new(101));
    assert_eq!(pending.wait(PATIENCE).expect("answer").id(), 101);
}

fn send_one(port: &SendRight) {
    port.send(Message::new(44).with_bytes("last words"), PATIENCE)
        .expect("send");
}

in_both_flavours!(s44_sender_is_known_after_it_exited);

fn s44_sender_is_known_after_it_exited(flavour: Flavour) {
    let port = port();
    let mut other = client("send one", &port, flavour);
    other.finish();
    let message = port.receive(PATIENCE).expect("receive");
    assert_eq!((message.id(), message.bytes()), (44, &b"last words"[..]));
    let sender = message.sender().expect("sender");
    assert_eq!(sender.pid(), Some(other.id()));
    assert_ne!(sender.pid(), Some(std::process::id()));
    assert_eq!(sender.uid(), rustix::process::getuid().as_raw());
    assert_eq!(sender.gid(), rustix::process::getgid().as_raw());
    assert_eq!(sender.pidfd().is_some(), kernel_passes_pidfds());
    if let Some(pidfd) = sender.pidfd() {
        assert!(is_readable(pidfd), "it has exited");
    }
}

in_both_flavours!(the_pidfd_of_a_sender_tells_when_it_exits);

fn the_pidfd_of_a_sender_tells_when_it_exits(flavour: Flavour) {
    let port = port();
    let mut other = client("ask", &port, flavour);
    let request = port.receive(PATIENCE).expect("receive");
    let Some(pidfd) = request.sender().expect("sender").pidfd() else {
        assert!(!kernel_passes_pidfds());
        return;
    };
    assert!(!is_readable(pidfd), "it waits for its answer");
    other.kill();
    assert!(is_readable(pidfd));
}

fn ask(port: &SendRight) {
    port.request(Message::new(1), PATIENCE, PATIENCE)
        .expect("answer");
}

in_both_flavours!(a_client_that_is_killed_in_a_request_disturbs_nobody);

fn a_client_that_is_killed_in_a_request_disturbs_nobody(flavour: Flavour) {
    let (port, honest) = flavour::port(flavour);
    let mut other = client("ask", &port, flavour);
    let mut request = port.receive(PATIENCE).expect("receive");
    assert_eq!(pid_of(&request), other.id());
    other.kill();
    let reply = request.take_reply().expect("reply right");
    match (reply.send(Message::new(2)), flavour) {
        (Err(error), _) => assert!(matches!(error.kind(), SendErrorKind::DeadName), "{error}"),
        // Memory takes it, because the kernel is not asked each time whether somebody is there.
        (Ok(()), Flavour::Ring) => {}
        (Ok(()), Flavour::Socket) => panic!("nobody waits"),
    }
    assert_served(&port, &honest);
    assert_eq!(port.status().senders, 1);
    let mut another = client("ask", &port, flavour);
    answer(
        &mut port.receive(PATIENCE).expect("receive"),
        Message::new(2),
    );
    another.finish();
}

/// Tells the sender of each request through the right in it that it has been read, and answers
/// none.
fn hold_requests(port: &ReceiveRight) {
    let mut held = Vec::new();
    while let Ok(mut request) = port.receive(PATIENCE) {
        for right in take_sends(&mut request) {
            right.send(Message::new(7), PATIENCE).expect("send");
        }
        held.push(request);
    }
}

in_both_flavours!(a_server_that_is_killed_in_a_request_fails_it_at_once);

fn a_server_that_is_killed_in_a_request_fails_it_at_once(flavour: Flavour) {
    let here = port();
    let (mut other, right) = server("hold requests", flavour);
    let waiting = |id| {
        let tell = here.make_send().expect("send right");
        let request = Message::new(id).with_right(tell);
        let pending = right.begin_request(request, PATIENCE).expect("send");
        assert_eq!(here.receive(PATIENCE).expect("it was read").id(), 7);
        pending
    };
    let (first, second) = (waiting(1), waiting(2));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| first.wait(Timeout::NEVER));
        let second = scope.spawn(|| second.wait(Timeout::NEVER));
        other.kill();
        for waited in [first, second] {
            let waited = waited.join().expect("no panic");
            assert!(matches!(waited, Err(ReplyError::DeadName)), "{waited:?}");
        }
    });
    assert!(right.is_dead());
    let error = right
        .send(Message::new(3), Timeout::NEVER)
        .expect_err("dead");
    assert!(matches!(error.kind(), SendErrorKind::DeadName));
}

/// Gets three rights: sends with the first, then passes this one and the second on with the third.
fn pass_rights_on(parent: &SendRight, flavour: Flavour) {
    let mut rights = parent.request(Message::new(0), PATIENCE, PATIENCE);
    let rights = take_sends(rights.as_mut().expect("answer"));
    let [used, fresh, next] = <[_; 3]>::try_from(rights).expect("three rights");
    warm_up(&used, flavour);
    used.send(Message::new(1), PATIENCE).expect("send");
    let both = Message::new(0).with_right(used).with_right(fresh);
    next.send(both, PATIENCE).expect("pass on");
    // Stays, so that what it passed on is not all that is left.
    parent
        .request(Message::new(0), PATIENCE, PATIENCE)
        .expect("answer");
}

/// Sends a message with each right that comes, and when all is done waits for an answer.
fn use_what_comes(port: &ReceiveRight, flavour: Flavour) {
    let rights = take_sends(&mut port.receive(PATIENCE).expect("receive"));
    for (id, right) in (2..).zip(&rights) {
        warm_up(right, flavour);
        right
            .send(Message::new(id), PATIENCE)
            .expect("use the right");
    }
    for right in &rights {
        right.request(Message::new(0), PATIENCE, PATIENCE).ok();
    }
}

in_both_flavours!(a_right_that_passed_through_processes_names_who_uses_it);

fn a_right_that_passed_through_processes_names_who_uses_it(flavour: Flavour) {
    let (here, asked) = (port(), port());
    let mut first = client("pass rights on", &asked, flavour);
    let (second, to_second) = server("use what comes", flavour);
    let mut request = asked.receive(PATIENCE).expect("receive");
    let rights = Message::new(0)
        .with_right(here.make_send_badged(1).expect("send right"))
        .with_right(here.make_send_badged(2).expect("send right"))
        .with_right(to_second);
    answer(&mut request, rights);
    // Senders take turns, so a request of one may come before a message of the other.
    let messages = std::iter::repeat_with(|| receive(&here)).filter(|message| message.id() != 0);
    let came: Vec<_> = messages
        .take(3)
        .map(|message| (message.id(), pid_of(&message), message.badge()))
        .collect();
    assert!(came.contains(&(1, first.id(), 1)), "{came:?}");
    assert!(came.contains(&(2, second.id(), 1)), "{came:?}");
    assert!(came.contains(&(3, second.id(), 2)), "{came:?}");
    answer(
        &mut asked.receive(PATIENCE).expect("receive"),
        Message::new(0),
    );
    first.finish();
}

/// Gets two rights, passes the first on with the second but keeps a duplicate of its socket, and
/// speaks through that when it is told to.
fn keep_a_duplicate(parent: &SendRight) {
    let mut rights = parent.request(Message::new(0), PATIENCE, PATIENCE);
    let rights = take_sends(rights.as_mut().expect("answer"));
    let [right, next] = <[_; 2]>::try_from(rights).expect("two rights");
    let duplicate = right.as_fd().try_clone_to_owned().expect("duplicate");
    next.send(Message::new(0).with_right(right), PATIENCE)
        .expect("pass on");
    parent
        .request(Message::new(0), PATIENCE, PATIENCE)
        .expect("the sign to speak");
    let duplicate = SendRight::from_socket(duplicate).expect("a right");
    duplicate
        .send(Message::new(666), PATIENCE)
        .expect("the kernel takes it");
    parent
        .request(Message::new(0), PATIENCE, PATIENCE)
        .expect("the end");
}

// Whose descriptor was given away stays on the socket.
#[test]
fn who_passed_a_right_on_cannot_speak_in_the_name_of_who_got_it() {
    let (here, asked) = (port(), port());
    let honest = here.make_send().expect("send right");
    let mut thief = client("keep a duplicate", &asked, Flavour::Socket);
    let (mut owner, to_owner) = server("use what comes", Flavour::Socket);
    let rights = Message::new(0)
        .with_right(here.make_send().expect("send right"))
        .with_right(to_owner);
    answer(&mut asked.receive(PATIENCE).expect("receive"), rights);
    let message = here.receive(PATIENCE).expect("the owner's message");
    assert_eq!((message.id(), pid_of(&message)), (2, owner.id()));
    let mut request = here.receive(PATIENCE).expect("the owner's request");
    assert_eq!(pid_of(&request), owner.id());

    answer(
        &mut asked.receive(PATIENCE).expect("receive"),
        Message::new(0),
    );
    let mut done = asked.receive(PATIENCE).expect("it has spoken");
    assert!(matches!(
        here.receive(Timeout::POLL),
        Err(ReceiveError::TimedOut)
    ));
    assert_eq!(here.status().senders, 1, "that channel is closed");
    let reply = request.take_reply().expect("reply right");
    assert!(reply.send(Message::new(0)).is_err());
    assert_served(&here, &honest);
    answer(&mut done, Message::new(0));
    thief.finish();
    owner.finish();
}

/// Answers each request with its id and bytes, until nobody is left to ask.
fn answer_all(port: &ReceiveRight) {
    port.request_no_senders(0);
    while let Ok(mut request) = port.receive(PATIENCE) {
        if request.notification().is_some() {
            return;
        }
        if let Some(reply) = request.take_reply() {
            let answer = Message::new(request.id()).with_bytes(request.bytes());
            reply.send(answer).expect("answer");
        }
    }
    panic!("nobody asks");
}

/// Says that it has begun, and never sleeps after that.
fn work_for_ever(port: &ReceiveRight) {
    for right in take_sends(&mut receive(port)) {
        right.send(Message::new(7), PATIENCE).expect("send");
    }
    loop {
        std::hint::spin_loop();
    }
}

in_both_flavours!(a_server_that_was_killed_at_work_cannot_be_sent_to);

fn a_server_that_was_killed_at_work_cannot_be_sent_to(flavour: Flavour) {
    let here = port();
    let (mut other, right) = server("work for ever", flavour);
    let tell = here.make_send().expect("send right");
    right
        .send(Message::new(1).with_right(tell), PATIENCE)
        .expect("send");
    assert_eq!(here.receive(PATIENCE).expect("it works").id(), 7);
    other.kill();
    // The kernel is not asked twice in a millisecond.
    let killed = Instant::now();
    while killed.elapsed() < Duration::from_millis(2) {}
    let error = (0..16).find_map(|id| right.send(Message::new(id), PATIENCE).err());
    let error = error.expect("it is dead");
    assert!(matches!(error.kind(), SendErrorKind::DeadName), "{error}");
}

in_both_flavours!(soak_many_requests_leave_both_processes_as_they_were);

fn soak_many_requests_leave_both_processes_as_they_were(flavour: Flavour) {
    alone("ask many times", flavour);
}

fn ask_many_times(flavour: Flavour) {
    let (mut other, right) = server("answer all", flavour);
    let ask = |times| {
        for id in 0..times {
            let request = Message::new(id).with_bytes(id.to_le_bytes());
            let answer = right.request(request, PATIENCE, PATIENCE).expect("answer");
            assert_eq!((answer.id(), answer.bytes()), (id, &id.to_le_bytes()[..]));
        }
    };
    let pids = [std::process::id(), other.id()];
    ask(1000);
    let before = pids.map(|pid| (usage::descriptors(pid), usage::threads(pid)));
    let resident = pids.map(usage::resident);
    for _ in soak::rounds() {
        ask(match flavour {
            // Each is a system call or more.
            Flavour::Socket => 20_000,
            Flavour::Ring => 100_000,
        });
        let after = pids.map(|pid| (usage::descriptors(pid), usage::threads(pid)));
        assert_eq!(before, after);
        for (pid, before) in pids.into_iter().zip(resident) {
            let grown = usage::resident(pid).saturating_sub(before);
            assert!(grown < 1 << 20, "process {pid} grew by {grown} bytes");
        }
    }
    drop(right);
    other.finish();
}

// Whether they go over to memory is up to the descriptors that are left.
#[test]
fn a_flood_of_channels_leaves_room_for_what_honest_clients_send() {
    let (mut other, hostile) = server("answer all with few descriptors", Flavour::Socket);
    let honest = hostile.copy(PATIENCE).expect("copy");
    let here = port();
    let ask = |client: &SendRight| {
        let mut request = Message::new(5);
        for _ in 0..20 {
            request = request.with_right(here.make_send().expect("send right"));
        }
        client.request(request, PATIENCE, PATIENCE)
    };
    assert_eq!(ask(&honest).expect("answer").id(), 5);
    let flood: Vec<_> = (0..400)
        .map(|_| hostile.copy(PATIENCE).expect("copy"))
        .collect();
    hostile
        .request(Message::new(1), PATIENCE, PATIENCE)
        .expect("all copies have been seen");
    for copy in &flood {
        // Each may cost more descriptors, and shared memory too; fails where the server has refused
        // the copy.
        for _ in 0..6 {
            copy.request(Message::new(1), PATIENCE, PATIENCE).ok();
        }
    }
    assert!(flood.iter().any(SendRight::is_dead), "no copy was refused");
    assert!(usage::descriptors(other.id()) < 170);
    assert_eq!(ask(&honest).expect("answer").id(), 5);
    drop((flood, hostile));
    let start = Instant::now();
    while usage::descriptors(other.id()) > 100 {
        // The server notices one thing after the other.
        ask(&honest).expect("answer");
        assert!(start.elapsed() < Duration::from_secs(20), "still there");
    }
    ask(&honest.copy(PATIENCE).expect("copy")).expect("there is room again");
    drop(honest);
    other.finish();
}

// About descriptors, of which a sender has one before it goes over.
#[test]
fn a_port_with_more_senders_than_there_is_room_for_is_refused() {
    let (mut other, right) = server("answer all with few descriptors", Flavour::Socket);
    let honest = right.copy(PATIENCE).expect("copy");
    let moves = port();
    let senders: Vec<_> = (0..180)
        .map(|_| moves.make_send().expect("send right"))
        .collect();
    right
        .send(Message::new(1).with_right(moves), PATIENCE)
        .expect("send");
    honest
        .request(Message::new(2), PATIENCE, PATIENCE)
        .expect("answer");
    assert!(right.is_dead());
    assert!(senders.iter().all(SendRight::is_dead));
    drop(honest);
    other.finish();
}

fn limit_descriptors(most: u64) {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = Some(most);
    rustix::process::setrlimit(Resource::Nofile, limit).expect("lower the limit");
}

/// Takes all descriptors that this process may still have; dropping them gives them back.
fn exhaust_descriptors() -> Vec<File> {
    limit_descriptors(200);
    let files = std::iter::repeat_with(|| File::open("/dev/null"));
    files.map_while(Result::ok).collect()
}

/// In a process that does nothing else.
fn alone(part: &str, flavour: Flavour) {
    let right = port().make_send().expect("send right");
    let socket = right.into_socket().expect("unused");
    play(&part_over(flavour, part), socket).finish();
}

fn receive_without_descriptors(flavour: Flavour) {
    let (port, honest) = flavour::port(flavour);
    let [greedy, spare] = [(); 2].map(|()| right_to(&port, flavour));
    let other = self::port();
    assert_served(&port, &honest);
    let gift = || {
        (0..20).fold(Message::new(1), |message, _| {
            message.with_right(other.make_send().expect("send right"))
        })
    };
    let kept = gift();
    let asked = greedy.begin_request(gift(), PATIENCE).expect("send");
    let minted = greedy.copy(PATIENCE).expect("copy");
    let files = exhaust_descriptors();
    assert!(files.len() > 20, "the limit is not where it should be");
    assert_served(&port, &honest);
    let nothing = port.receive(Timeout::POLL);
    assert!(
        matches!(nothing, Err(ReceiveError::TimedOut)),
        "{nothing:?}"
    );
    let lost = asked.wait(PATIENCE);
    assert!(matches!(lost, Err(ReplyError::NoReply)), "{lost:?}");
    assert!(
        minted.is_dead(),
        "there was no descriptor for its other end"
    );
    assert!(!greedy.is_dead(), "it has done nothing wrong");
    assert!(port.make_send().is_err());
    spare.send(kept, PATIENCE).expect("sending needs none");
    drop(files);
    let message = port.receive(PATIENCE).expect("there is room again");
    assert_eq!(message.rights().len(), 20);
    assert_served(&port, &honest);
}

in_both_flavours!(a_receiver_out_of_descriptors_recovers);

fn a_receiver_out_of_descriptors_recovers(flavour: Flavour) {
    alone("receive without descriptors", flavour);
}

/// Answers are kept, and when there is room for them they cannot be sent.
fn answer_without_descriptors() {
    let port = port();
    let (here, there) = pair();
    let shrink = here.try_clone().expect("duplicate");
    port.adopt(here, 0).expect("adopt");
    let right = right_from(there, Flavour::Socket);
    let pending: Vec<_> = (0..40)
        .map(|_| {
            let pending = right
                .begin_request(Message::new(1), PATIENCE)
                .expect("send");
            let mut request = port.receive(PATIENCE).expect("receive");
            answer(&mut request, Message::new(2).with_bytes(vec![2; 20_000]));
            pending
        })
        .collect();
    // Now each answer needs a memfd.
    rustix::net::sockopt::set_socket_send_buffer_size(&shrink, 1).expect("SO_SNDBUF");
    let files = exhaust_descriptors();
    let server = std::thread::spawn(move || port.receive(PATIENCE).map(|message| message.id()));
    let (mut answered, mut refused) = (0, 0);
    for pending in pending {
        match pending.wait(PATIENCE) {
            Ok(_) => answered += 1,
            Err(ReplyError::NoReply) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(answered > 0 && refused > 0, "{answered}, {refused}");
    right.send(Message::new(3), PATIENCE).expect("send");
    assert_eq!(server.join().expect("server").expect("receive"), 3);
    drop(files);
}

// In memory an answer without rights needs no descriptor.
#[test]
fn an_answer_that_cannot_be_sent_later_is_refused() {
    alone("answer without descriptors", Flavour::Socket);
}
