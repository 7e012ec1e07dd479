//! Several threads at one right or one port.

mod flavour;

use std::cell::RefCell;
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use flavour::port;
use portolan_port::{
    Message, Notification, PortSet, ReceiveError, ReceiveRight, ReplyError, RequestError, Right,
    SendError, SendErrorKind, SendRight, Timeout, WaitPolicy,
};
use portolan_testkit::flavour::Flavour;
use portolan_testkit::{in_both_flavours, soak};
use portolan_wire::packet::{Header, Kind};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Timeout = Timeout::after(LONG);
const LONG: Duration = Duration::from_secs(20);

/// A port and a right that may go over to memory when it is used.
fn fresh() -> (ReceiveRight, SendRight) {
    let port = ReceiveRight::new().expect("port");
    let right = port.make_send().expect("send right");
    (port, right)
}

/// Answers each request with its id, until the right is gone.
fn answer_all(port: &ReceiveRight) {
    port.request_no_senders(1);
    while let Ok(mut request) = port.receive(PATIENCE) {
        if request.notification().is_some() {
            return;
        }
        let reply = request.take_reply().expect("reply right");
        // Fails for one that was given up, once the right is gone.
        reply.send(Message::new(request.id())).ok();
    }
    panic!("nobody asks");
}

/// A server that gets no time has not seen yet how many were given up.
fn are_too_many(error: &RequestError) -> bool {
    matches!(error, RequestError::Send(error)
        if matches!(error.kind(), SendErrorKind::TooManyRequests { .. }))
}

in_both_flavours!(soak_threads_that_give_up_do_not_keep_answers_from_others);

fn soak_threads_that_give_up_do_not_keep_answers_from_others(flavour: Flavour) {
    soak::rounds().for_each(|_| ask_patiently_and_not(flavour));
}

fn ask_patiently_and_not(flavour: Flavour) {
    const ROUNDS: i32 = 2000;
    let (port, right) = port(flavour);
    let done = AtomicBool::new(false);
    let server = thread::spawn(move || answer_all(&port));
    thread::scope(|scope| {
        let (right, done) = (&right, &done);
        for _ in 0..3 {
            scope.spawn(move || {
                while !done.load(Ordering::Acquire) {
                    let short = Duration::from_micros(20);
                    match right.request(Message::new(-1), PATIENCE, short) {
                        Ok(_) | Err(RequestError::Reply(ReplyError::TimedOut)) => {}
                        Err(error) if are_too_many(&error) => thread::yield_now(),
                        Err(other) => panic!("{other:?}"),
                    }
                    assert!(!right.is_dead());
                }
            });
        }
        let patient = (1..=3).map(|client| {
            scope.spawn(move || {
                for id in 0..ROUNDS {
                    let id = client * ROUNDS + id;
                    let answer = loop {
                        match right.request(Message::new(id), PATIENCE, PATIENCE) {
                            Err(error) if are_too_many(&error) => thread::yield_now(),
                            other => break other,
                        }
                    };
                    assert_eq!(answer.expect("answer").id(), id);
                }
            })
        });
        let patient: Vec<_> = patient.collect();
        let ended: Vec<_> = patient.into_iter().map(|one| one.join()).collect();
        done.store(true, Ordering::Release);
        assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    });
    drop(right);
    server.join().expect("server");
}

in_both_flavours!(a_thread_that_gives_up_leaves_reading_to_another);

fn a_thread_that_gives_up_leaves_reading_to_another(flavour: Flavour) {
    let (port, right) = port(flavour);
    for round in 0..10 {
        let ask = || {
            right
                .begin_request(Message::new(1), PATIENCE)
                .expect("send")
        };
        let (short, long) = (ask(), ask());
        let mut requests = [(); 2].map(|()| port.receive(PATIENCE).expect("receive"));
        thread::scope(|scope| {
            let (started, go) = std::sync::mpsc::channel();
            let short = scope.spawn(move || {
                started.send(()).expect("the test waits");
                short.wait(Duration::from_millis(10))
            });
            go.recv().expect("the thread runs");
            let long = scope.spawn(|| long.wait(PATIENCE));
            let gave_up = short.join().expect("no panic");
            assert!(matches!(gave_up, Err(ReplyError::TimedOut)));
            let reply = requests[1].take_reply().expect("reply right");
            reply.send(Message::new(round)).expect("answer");
            let answer = long.join().expect("no panic").expect("answer");
            assert_eq!(answer.id(), round);
        });
    }
}

in_both_flavours!(soak_a_port_that_moves_while_a_set_receives_from_it_loses_nothing);

fn soak_a_port_that_moves_while_a_set_receives_from_it_loses_nothing(flavour: Flavour) {
    soak::rounds().for_each(|_| move_out_of_a_set(flavour));
}

fn move_out_of_a_set(flavour: Flavour) {
    const MESSAGES: i32 = 20_000;
    let (mut port, right) = port(flavour);
    let (other, to_other) = self::port(flavour);
    let set = PortSet::new().expect("set");
    let done = AtomicBool::new(false);
    let (mut came, moves) = thread::scope(|scope| {
        let from_set = scope.spawn(|| {
            let mut came = Vec::new();
            while !done.load(Ordering::Acquire) {
                came.extend(set.receive(Duration::from_millis(1)).map(|one| one.id()));
            }
            came
        });
        let sender = scope.spawn(move || {
            for id in 0..MESSAGES {
                right.send(Message::new(id), PATIENCE).expect("send");
            }
        });
        let (mut came, mut moves) = (Vec::new(), 0);
        while !sender.is_finished() || moves < 10 {
            assert!(set.insert(&port).expect("insert"), "it is a new member");
            came.extend(port.receive(Timeout::POLL).map(|one| one.id()));
            port = move_through(&other, &to_other, port);
            moves += 1;
        }
        came.extend(std::iter::from_fn(|| {
            port.receive(Timeout::POLL).ok().map(|one| one.id())
        }));
        done.store(true, Ordering::Release);
        came.extend(from_set.join().expect("set"));
        (came, moves)
    });
    came.sort_unstable();
    assert_eq!(came, (0..MESSAGES).collect::<Vec<_>>(), "{moves} moves");
}

#[test]
fn a_port_that_cannot_move_while_a_set_receives_from_it_keeps_its_senders() {
    let (mut port, _right) = fresh();
    let (_full, to_full) = fresh();
    while to_full.send(Message::new(0), Timeout::POLL).is_ok() {}
    let set = PortSet::new().expect("set");
    set.insert(&port).expect("insert");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    set.receive(Duration::from_millis(10)).ok();
                }
            });
        }
        let mut kept = true;
        for _ in 0..300 {
            let rights = [(); 8].map(|()| port.make_send().expect("send right"));
            kept &= send_with_each(&rights, 3);
            // The next message comes with an offer of memory, which waits until the port is back.
            let sender = scope.spawn(move || {
                let kept = send_with_each(&rights, 1);
                (kept, rights)
            });
            let moving = Message::new(0).with_right(port);
            let error = to_full.send(moving, Duration::from_millis(1));
            port = received_right(error.expect_err("full").into_message());
            let (sent, rights) = sender.join().expect("no panic");
            kept &= sent && send_with_each(&rights, 1);
        }
        done.store(true, Ordering::Release);
        assert!(kept, "a sender was cut off");
    });
}

fn send_with_each(rights: &[SendRight], count: i32) -> bool {
    let send = |right: &SendRight, id| right.send(Message::new(id), PATIENCE).is_ok();
    rights
        .iter()
        .all(|right| (0..count).all(|id| send(right, id)))
}

fn received_right(mut message: Message) -> ReceiveRight {
    match message.take_rights().pop() {
        Some(Right::Receive(port)) => port,
        other => panic!("expected a receive right, got {other:?}"),
    }
}

fn move_through(other: &ReceiveRight, to_other: &SendRight, port: ReceiveRight) -> ReceiveRight {
    to_other
        .send(Message::new(0).with_right(port), PATIENCE)
        .expect("move");
    received_right(other.receive(PATIENCE).expect("receive"))
}

// About going from one flavour to the other.
#[test]
fn a_right_may_go_over_to_memory_before_and_after_its_port_moves() {
    let (dead, to_dead) = fresh();
    drop(dead);
    for used in 0..10 {
        for moves in [true, false] {
            let (other, to_other) = fresh();
            let (mut port, right) = fresh();
            let exchange = |port: &ReceiveRight, count| {
                for id in 0..count {
                    right.send(Message::new(id), PATIENCE).expect("send");
                    let message = port.receive(PATIENCE).expect("receive");
                    let sender = message.sender().expect("sender");
                    assert_eq!((message.id(), sender.pid()), (id, Some(std::process::id())));
                    // Sleeps, and so has to be woken for the next.
                    let nothing = port.receive(Duration::from_micros(100));
                    assert!(matches!(nothing, Err(ReceiveError::TimedOut)));
                }
            };
            exchange(&port, used);
            if moves {
                port = move_through(&other, &to_other, port);
            } else {
                let error = to_dead.send(Message::new(0).with_right(port), PATIENCE);
                port = received_right(error.expect_err("dead").into_message());
            }
            exchange(&port, 10);
        }
    }
}

in_both_flavours!(a_port_that_moves_often_gives_room_back);

fn a_port_that_moves_often_gives_room_back(flavour: Flavour) {
    let (mut port, right) = port(flavour);
    let (other, to_other) = self::port(flavour);
    for _ in 0..30 {
        for id in 0..10 {
            let message = Message::new(id).with_bytes(vec![1; 5000]);
            right.send(message, PATIENCE).expect("there is room");
            assert_eq!(port.receive(PATIENCE).expect("receive").id(), id);
        }
        port = move_through(&other, &to_other, port);
    }
}

// In each flavour and on the way from one to the other.
#[test]
fn a_sender_that_waits_for_room_is_told_that_the_port_died() {
    for used in 0..8 {
        let (port, right) = fresh();
        for id in 0..used {
            right.send(Message::new(id), PATIENCE).expect("send");
            port.receive(PATIENCE).expect("receive");
        }
        while right.send(Message::new(0), Timeout::POLL).is_ok() {}
        thread::scope(|scope| {
            let (started, go) = std::sync::mpsc::channel();
            let right = &right;
            let sender = scope.spawn(move || {
                started.send(()).expect("the test waits");
                right.send(Message::new(1), PATIENCE)
            });
            go.recv().expect("the thread runs");
            drop(port);
            let error = sender.join().expect("no panic").expect_err("dead");
            assert!(matches!(error.kind(), SendErrorKind::DeadName), "{error}");
        });
    }
}

// Each copy is new, and so on the socket.
#[test]
fn a_right_that_is_replaced_by_its_copy_is_never_the_last() {
    let (port, mut right) = fresh();
    let done = AtomicBool::new(false);
    port.request_no_senders(1);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    if let Ok(message) = port.receive(Duration::from_millis(10)) {
                        assert_eq!(message.notification(), None, "a sender is left");
                    }
                }
            });
        }
        for _ in 0..10_000 {
            right = right.copy(PATIENCE).expect("copy");
        }
        right.send(Message::new(1), PATIENCE).expect("send");
        done.store(true, Ordering::Release);
    });
}

in_both_flavours!(a_port_can_die_with_its_thread);

fn a_port_can_die_with_its_thread(flavour: Flavour) {
    thread_local! {
        static KEPT: RefCell<Option<ReceiveRight>> = const { RefCell::new(None) };
    }
    let (port, right) = port(flavour);
    let [read, unread] = [1, 2].map(|id| {
        let pending = right.begin_request(Message::new(id), PATIENCE);
        pending.expect("send")
    });
    let receiver =
        thread::spawn(move || KEPT.with(|kept| kept.borrow_mut().insert(port).receive(PATIENCE)));
    let mut request = receiver.join().expect("no panic").expect("receive");
    let waited = unread.wait(PATIENCE);
    assert!(matches!(waited, Err(ReplyError::DeadName)), "{waited:?}");
    let reply = request.take_reply().expect("reply right");
    reply.send(Message::new(3)).expect("answer");
    assert_eq!(read.wait(PATIENCE).expect("answer").id(), 3);
}

#[test]
fn a_thread_that_sleeps_is_woken_while_another_keeps_its_message() {
    const ROUNDS: i32 = 1000;
    let (port, right) = fresh();
    thread::scope(|scope| {
        let (to_test, came) = mpsc::channel();
        for _ in 0..2 {
            let (port, to_test) = (&port, to_test.clone());
            scope.spawn(move || {
                while let Ok(message) = port.receive(PATIENCE) {
                    let (go_on, wait) = mpsc::channel::<()>();
                    to_test.send((message.id(), go_on)).ok();
                    if wait.recv().is_err() {
                        return;
                    }
                }
            });
        }
        for round in 0..ROUNDS {
            let both = [2 * round, 2 * round + 1].map(|id| {
                right.send(Message::new(id), PATIENCE).expect("send");
                let (came, go_on) = came.recv_timeout(LONG).expect("woken");
                assert_eq!(came, id);
                go_on
            });
            if round + 1 < ROUNDS {
                for go_on in both {
                    go_on.send(()).expect("it waits");
                }
            }
        }
    });
}

/// A thread that sends a message for which there is no room yet.
struct Sending<'scope> {
    thread: u32,
    sent: ScopedJoinHandle<'scope, Result<(), SendError>>,
}

impl<'scope> Sending<'scope> {
    fn begin<'env>(
        scope: &'scope Scope<'scope, 'env>,
        right: &'scope SendRight,
        (id, len): (i32, usize),
    ) -> Self {
        let (started, go) = mpsc::channel();
        let sent = scope.spawn(move || {
            let own = rustix::thread::gettid().as_raw_nonzero().get();
            started.send(own.unsigned_abs()).expect("the test waits");
            let message = Message::new(id).with_bytes(vec![1; len]);
            right.send(message, PATIENCE)
        });
        let thread = go.recv().expect("the thread runs");
        let sending = Self { thread, sent };
        sending.settle();
        sending
    }

    /// Waits until the thread sleeps or has ended.
    fn settle(&self) {
        let stat = format!("/proc/self/task/{}/stat", self.thread);
        while !self.sent.is_finished() {
            // Gone when it has just ended. Behind the name in brackets there is the state.
            let text = fs::read_to_string(&stat).unwrap_or_default();
            if text
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .starts_with(" S")
            {
                return;
            }
            thread::yield_now();
        }
    }
}

#[test]
fn a_small_message_leaves_the_wake_up_for_room_to_a_large_one() {
    const SMALL: (i32, usize) = (1, 8);
    const LARGE: (i32, usize) = (2, 200_000);
    for order in [[LARGE, SMALL], [SMALL, LARGE]] {
        let (port, right) = port(Flavour::Ring);
        right.set_wait_policy(WaitPolicy::Block);
        for len in [16_000, 8] {
            let filler = || Message::new(0).with_bytes(vec![1; len]);
            while right.send(filler(), Timeout::POLL).is_ok() {}
        }
        thread::scope(|scope| {
            let both = order.map(|one| Sending::begin(scope, &right, one));
            let mut came = Vec::new();
            // As little room as the small one needs, and then all.
            let small = usize::from(order[0] == LARGE);
            while !both[small].sent.is_finished() {
                came.push(port.receive(PATIENCE).expect("a message").id());
                both.iter().for_each(Sending::settle);
            }
            while came.iter().filter(|id| **id != 0).count() < 2 {
                // Sooner than the sender looks again because it gives up.
                let next = port.receive(LONG / 2);
                came.push(next.expect("the message that waits for room").id());
            }
            for sending in both {
                sending.sent.join().expect("no panic").expect("sent");
            }
        });
    }
}

#[test]
fn notifications_are_taken_while_senders_are_added() {
    const ROUNDS: usize = 20_000;
    const AT_A_TIME: usize = 50;
    const END: i32 = -1;
    let (port, right) = port(Flavour::Ring);
    let (port, right) = (Arc::new(port), Arc::new(right));
    let (to_test, came) = mpsc::channel();
    let (add, adds) = mpsc::channel::<()>();
    let (notify, notifies) = mpsc::channel::<()>();
    // Not scoped: threads that wait for each other are left behind.
    let receivers = [(); 2].map(|()| {
        let (port, to_test) = (Arc::clone(&port), to_test.clone());
        thread::spawn(move || {
            loop {
                let message = port.receive(PATIENCE).expect("receive");
                if message.id() == END {
                    return;
                }
                to_test.send(message.notification()).expect("the test runs");
            }
        })
    });
    let adder = {
        let right = Arc::clone(&right);
        thread::spawn(move || {
            for () in adds {
                drop(right.copy(PATIENCE).expect("copy"));
                right.send(Message::new(1), PATIENCE).expect("send");
            }
        })
    };
    let notifier = {
        let port = Arc::clone(&port);
        thread::spawn(move || {
            for () in notifies {
                drop(port.make_send_once().expect("send-once right"));
            }
        })
    };
    for _ in 0..AT_A_TIME {
        add.send(()).expect("it waits");
        notify.send(()).expect("it waits");
    }
    let (mut added, mut notified) = (0, 0);
    while added < ROUNDS || notified < ROUNDS {
        let next = match came.recv_timeout(LONG) {
            Ok(Some(Notification::SendOnce)) => {
                notified += 1;
                &notify
            }
            Ok(None) => {
                added += 1;
                &add
            }
            other => panic!("{other:?} after {added} and {notified}"),
        };
        next.send(()).expect("it waits");
    }
    drop((add, notify));
    adder.join().expect("adder");
    notifier.join().expect("notifier");
    for _ in &receivers {
        right.send(Message::new(END), PATIENCE).expect("send");
    }
    for receiver in receivers {
        receiver.join().expect("receiver");
    }
}

#[test]
fn an_answer_that_comes_with_the_end_is_not_lost() {
    // Every ten thousandth round or so finds the moment on an idle machine.
    let end = Instant::now() + Duration::from_secs(5);
    let (to_port, sockets) = mpsc::channel();
    let port = thread::spawn(move || sockets.into_iter().for_each(refuse_one));
    while Instant::now() < end {
        let (here, there) = pair();
        let right = SendRight::from_socket(here).expect("right");
        let pending = right.begin_request(Message::new(1), PATIENCE);
        to_port.send(there).expect("the port waits");
        while !right.is_dead() {}
        let answer = pending.expect("send").wait(PATIENCE);
        assert!(matches!(answer, Err(ReplyError::NoReply)), "{answer:?}");
    }
    drop(to_port);
    port.join().expect("port");
}

fn pair() -> (OwnedFd, OwnedFd) {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let pair = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None);
    pair.expect("socketpair")
}

/// Takes one request, tells that no answer will come, and is gone at once.
fn refuse_one(socket: OwnedFd) {
    let answer = Header::control(Kind::NoReply, 1).encode();
    rustix::net::recv(&socket, &mut [0; 64], RecvFlags::empty()).expect("request");
    rustix::net::send(&socket, &answer, SendFlags::empty()).expect("answer");
}
