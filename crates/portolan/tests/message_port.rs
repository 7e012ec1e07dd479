//! Message ports, between processes and within one.
//!
//! The other processes are this test program again, which runs `play_a_part`.

use std::env;
use std::panic::resume_unwind;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use portolan::bootstrap::{Bootstrap, BootstrapError};
use portolan::message_port::{
    Created, LocalMessagePort, Pass, RemoteMessagePort, ReplyMode, Request, SendRequestError,
};
use portolan::{
    BootstrapCode, MAX_MESSAGE_BYTES, Message, ReceiveRight, ReplyError, RequestError,
    SendErrorKind, ServiceName,
};
use portolan_testkit::flavour::{Flavour, memories};
use portolan_testkit::in_both_flavours;
use portolan_testkit::wait::is_readable;

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);
const ANSWER: ReplyMode = ReplyMode::ReceiveTimeout(PATIENCE);

fn name(text: &str) -> ServiceName {
    text.parse().expect("a service name")
}

fn private() -> Bootstrap {
    Bootstrap::private().expect("a bootstrap server")
}

fn create<C>(bootstrap: &Bootstrap, text: &str, callback: C) -> LocalMessagePort
where
    C: Fn(Request<'_>) -> Option<Vec<u8>> + Send + Sync + 'static,
{
    let created = LocalMessagePort::create(bootstrap, &name(text), move |request| {
        if request.id() == WARM_UP {
            return None;
        }
        callback(request)
    });
    match created.expect("a local port") {
        Created::New(port) => port,
        Created::Existing(port) => panic!("{port:?} was there before"),
    }
}

/// A local port that a thread serves.
fn serve<C>(bootstrap: &Bootstrap, text: &str, callback: C) -> LocalMessagePort
where
    C: Fn(Request<'_>) -> Option<Vec<u8>> + Send + Sync + 'static,
{
    let port = create(bootstrap, text, callback);
    port.spawn().expect("a thread");
    port
}

fn remote(bootstrap: &Bootstrap, text: &str) -> RemoteMessagePort {
    RemoteMessagePort::create(bootstrap, &name(text)).expect("a remote port")
}

/// More requests than it takes for a right to go over to memory.
const WARM_UPS: usize = 8;

/// Says that a request is there for nothing but that. The callback does not see it.
const WARM_UP: i32 = i32::MIN + 1;

/// A remote port whose right is in this flavour; the local port is served.
fn remote_in(flavour: Flavour, bootstrap: &Bootstrap, text: &str) -> RemoteMessagePort {
    let remote = remote(bootstrap, text);
    bring(&remote, flavour, || {
        assert_eq!(ask(&remote, WARM_UP, b"").expect("an answer"), b"");
    });
    remote
}

/// The same for a local port that nobody serves.
fn remote_to(
    local: &LocalMessagePort,
    bootstrap: &Bootstrap,
    flavour: Flavour,
) -> RemoteMessagePort {
    let remote = remote(bootstrap, local.name().as_str());
    bring(&remote, flavour, || {
        let sent = remote.send_request(WARM_UP, "", PATIENCE, ReplyMode::None);
        sent.expect("queued");
        assert_eq!(local.run_once(PATIENCE).expect("served"), Pass::Handled);
    });
    remote
}

fn bring(remote: &RemoteMessagePort, flavour: Flavour, warm_up: impl Fn()) {
    if flavour == Flavour::Socket {
        // Asking keeps it there.
        assert_eq!(Flavour::of(remote), Flavour::Socket);
        return;
    }
    let before = memories();
    for _ in 0..WARM_UPS {
        warm_up();
    }
    assert!(!memories().is_subset(&before), "still on the socket");
    assert!(remote.is_valid());
}

in_both_flavours!(the_tests_get_the_flavour_that_they_ask_for);

fn the_tests_get_the_flavour_that_they_ask_for(flavour: Flavour) {
    let bootstrap = private();
    let (served, unserved) = (
        serve(&bootstrap, "served", |_| None),
        create(&bootstrap, "unserved", |_| None),
    );
    let first = remote_in(flavour, &bootstrap, "served");
    let second = remote_to(&unserved, &bootstrap, flavour);
    assert_eq!(Flavour::of(first), flavour);
    assert_eq!(Flavour::of(second), flavour);
    drop(served);
}

/// Where the other processes begin; nothing to do in the one that runs the tests.
#[test]
fn play_a_part() {
    match role().as_deref() {
        None => {}
        Some("echo") => play_echo(),
        Some("hang") => play_hang(),
        Some("relay Socket") => play_relay(Flavour::Socket),
        Some("relay Ring") => play_relay(Flavour::Ring),
        Some(other) => panic!("no part {other}"),
    }
}

fn ask(remote: &RemoteMessagePort, id: i32, data: &[u8]) -> Result<Vec<u8>, SendRequestError> {
    remote
        .send_request(id, data, PATIENCE, ANSWER)
        .map(|answer| answer.expect("an answer was asked for"))
}

fn refusal(result: Result<RemoteMessagePort, BootstrapError>) -> Option<BootstrapCode> {
    result.expect_err("it was found").code()
}

#[test]
fn s74_a_remote_port_needs_a_server_and_is_shared() {
    let bootstrap = private();
    let missing = RemoteMessagePort::create(&bootstrap, &name("echo"));
    assert_eq!(refusal(missing), Some(BootstrapCode::UNKNOWN_SERVICE));

    let echo = Process::start("echo", &bootstrap);
    let first = remote(&bootstrap, "echo");
    let second = remote(&bootstrap, "echo");
    assert_eq!(first, second);
    assert_eq!(ask(&second, 1, b"data").expect("an answer"), b"data");

    first.invalidate();
    let third = remote(&bootstrap, "echo");
    assert_ne!(first, third);
    assert_eq!(ask(&third, 1, b"data").expect("an answer"), b"data");
    drop(echo);
}

#[test]
fn s74_a_dead_remote_port_is_looked_up_anew_at_once() {
    let bootstrap = private();
    let former = serve(&bootstrap, "n", |_| Some(b"former".into()));
    let dead = remote(&bootstrap, "n");
    former.invalidate();
    let missing = RemoteMessagePort::create(&bootstrap, &name("n"));
    assert_eq!(refusal(missing), Some(BootstrapCode::UNKNOWN_SERVICE));

    let _latter = serve(&bootstrap, "n", |_| Some(b"latter".into()));
    let alive = remote(&bootstrap, "n");
    assert_ne!(dead, alive);
    assert_eq!(ask(&alive, 0, b"").expect("an answer"), b"latter");
}

#[test]
fn s75_a_local_port_is_made_once() {
    let bootstrap = private();
    let port = serve(&bootstrap, "n", |_| Some(b"old".into()));
    let context = Arc::new(());
    let held = Arc::clone(&context);
    let again = LocalMessagePort::create(&bootstrap, &name("n"), move |_| {
        assert_eq!(Arc::strong_count(&held), 2);
        Some(b"new".into())
    });
    let again = again.expect("the port");
    assert!(!again.is_new());
    assert_eq!(Arc::strong_count(&context), 1, "the callback was kept");
    assert_eq!(again.into_port(), port);
    let answer = ask(&remote(&bootstrap, "n"), 0, b"").expect("an answer");
    assert_eq!(answer, b"old");
}

#[test]
fn s75_a_name_that_is_no_message_port_is_refused_with_its_code() {
    let bootstrap = private();
    let _port: ReceiveRight = bootstrap.check_in(&name("n")).expect("a port");
    let refused = LocalMessagePort::create(&bootstrap, &name("n"), |_| None);
    let code = refused.expect_err("the name is taken").code();
    assert_eq!(code, Some(BootstrapCode::SERVICE_ACTIVE));
}

#[test]
fn s74_s75_two_servers_in_one_process_are_not_confused() {
    let (one, two) = (private(), private());
    let first = serve(&one, "n", |_| Some(b"first".into()));
    let second = serve(&two, "n", |_| Some(b"second".into()));
    assert_ne!(first, second);
    let (to_first, to_second) = (remote(&one, "n"), remote(&two, "n"));
    assert_ne!(to_first, to_second);
    assert_eq!(ask(&to_first, 0, b"").expect("an answer"), b"first");
    assert_eq!(ask(&to_second, 0, b"").expect("an answer"), b"second");

    let copy = two.copy().expect("another right to the second server");
    let again = LocalMessagePort::create(&copy, &name("n"), |_| None).expect("the port");
    assert_eq!(again, Created::Existing(second));
    assert_eq!(remote(&copy, "n"), to_second);
}

#[test]
fn s76_a_name_of_another_process_is_refused() {
    let bootstrap = private();
    let _echo = Process::start("echo", &bootstrap);
    let context = Arc::new(());
    let held = Arc::clone(&context);
    let refused = LocalMessagePort::create(&bootstrap, &name("echo"), move |_| {
        assert_eq!(Arc::strong_count(&held), 2);
        None
    });
    let code = refused.expect_err("another process has the name").code();
    assert_eq!(code, Some(BootstrapCode::NOT_PRIVILEGED));
    assert_eq!(Arc::strong_count(&context), 1, "the callback was kept");
}

#[test]
fn s76_a_name_that_the_sandbox_denies_is_refused() {
    let entitlements = br#"
        "com.apple.security.app-sandbox" = true
        "com.apple.security.application-groups" = ["group.org.example"]
    "#;
    let label = "org.example.confined".parse().expect("a label");
    let confined = private().confine(&label, entitlements);
    let bootstrap = Bootstrap::from_right(confined.expect("a confined right").right);
    let denied = name("E030B15B-3EC6-4A21-A415-668AD0CB1B52");
    let refused = LocalMessagePort::create(&bootstrap, &denied, |_| None);
    let code = refused.expect_err("it is not in the group").code();
    assert_eq!(code, Some(BootstrapCode::NOT_PRIVILEGED));
    let missing = RemoteMessagePort::create(&bootstrap, &denied);
    assert_eq!(refusal(missing), Some(BootstrapCode::NOT_PRIVILEGED));
    let _port = serve(&bootstrap, "group.org.example.server", |_| None);
    let client = remote(&bootstrap, "group.org.example.server");
    assert_eq!(ask(&client, 0, b"").expect("an answer"), b"");
}

in_both_flavours!(s77_the_answer_is_what_the_callback_returns);

fn s77_the_answer_is_what_the_callback_returns(flavour: Flavour) {
    let bootstrap = private();
    let _echo = Process::start("echo", &bootstrap);
    let echo = remote_in(flavour, &bootstrap, "echo");
    assert_eq!(
        ask(&echo, ECHO, b"some bytes").expect("an answer"),
        b"some bytes"
    );
    let none = echo.send_request(NOTHING, "some bytes", PATIENCE, ANSWER);
    assert_eq!(none.expect("an answer"), Some(Vec::new()));
}

in_both_flavours!(s77_a_port_that_nobody_serves_lets_the_request_time_out);

fn s77_a_port_that_nobody_serves_lets_the_request_time_out(flavour: Flavour) {
    let bootstrap = private();
    let port = create(&bootstrap, "n", |_| None);
    let wait = Duration::from_millis(30);
    let begin = Instant::now();
    let error = remote_to(&port, &bootstrap, flavour)
        .send_request(0, "", PATIENCE, ReplyMode::ReceiveTimeout(wait))
        .expect_err("nobody answers");
    assert!(begin.elapsed() >= wait);
    assert!(matches!(error, SendRequestError::ReceiveTimeout), "{error}");
    assert_eq!(error.code(), -2);
    assert_eq!(port.run_once(PATIENCE).expect("served"), Pass::Handled);
    assert_eq!(
        port.run_once(Duration::ZERO).expect("served"),
        Pass::TimedOut
    );
}

in_both_flavours!(s78_without_a_reply_mode_queueing_is_all);

fn s78_without_a_reply_mode_queueing_is_all(flavour: Flavour) {
    let bootstrap = private();
    let (calls, called) = mpsc::channel();
    let port = create(&bootstrap, "n", move |request| {
        calls
            .send((request.id(), request.data().to_vec()))
            .expect("the test listens");
        Some(b"nobody wants this".into())
    });
    let client = remote_to(&port, &bootstrap, flavour);
    for id in [i32::MIN, -1, i32::MAX] {
        let sent = client.send_request(id, "data", Duration::ZERO, ReplyMode::None);
        assert_eq!(sent.expect("queued"), None);
    }
    for id in [i32::MIN, -1, i32::MAX] {
        assert_eq!(port.run_once(PATIENCE).expect("served"), Pass::Handled);
        assert_eq!(called.try_recv(), Ok((id, b"data".to_vec())));
    }
    port.spawn().expect("a thread");
    assert_eq!(
        ask(&client, 1, b"").expect("its own answer"),
        b"nobody wants this"
    );
}

in_both_flavours!(s80_an_invalidated_remote_port_says_so);

fn s80_an_invalidated_remote_port_says_so(flavour: Flavour) {
    let bootstrap = private();
    let _port = serve(&bootstrap, "n", |_| None);
    let client = remote_in(flavour, &bootstrap, "n");
    let calls = count_invalidation_of_remote(&client);
    client.invalidate();
    client.invalidate();
    assert!(!client.is_valid());
    let error = ask(&client, 0, b"").expect_err("it is invalid");
    assert!(matches!(error, SendRequestError::IsInvalid), "{error}");
    assert_eq!((error.code(), calls.load(Ordering::SeqCst)), (-3, 1));
}

in_both_flavours!(s80_a_server_that_died_unnoticed_is_a_transport_error);

fn s80_a_server_that_died_unnoticed_is_a_transport_error(flavour: Flavour) {
    let bootstrap = private();
    for reply in [ANSWER, ReplyMode::None] {
        let echo = Process::start("echo", &bootstrap);
        let client = remote_in(flavour, &bootstrap, "echo");
        let calls = count_invalidation_of_remote(&client);
        assert_eq!(ask(&client, ECHO, b"1").expect("an answer"), b"1");
        echo.kill();
        assert_eq!(calls.load(Ordering::SeqCst), 0, "nobody looked");
        let error = loop {
            match client.send_request(ECHO, "2", PATIENCE, reply) {
                Err(error) => break error,
                // Memory takes it, because the kernel is not asked each time who is there.
                Ok(_) => assert_eq!(flavour, Flavour::Ring, "queued for nobody"),
            }
        };
        match (&error, flavour) {
            (SendRequestError::TransportError(RequestError::Send(error)), _) => {
                assert!(matches!(error.kind(), SendErrorKind::DeadName), "{error}");
            }
            (SendRequestError::BecameInvalid, Flavour::Ring) => {}
            _ => panic!("{error:?}"),
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        assert_eq!(
            ask(&client, ECHO, b"3").expect_err("it is invalid").code(),
            -3
        );
        wait_until_free(&bootstrap, "echo");
    }
}

in_both_flavours!(s80_a_server_that_dies_during_the_wait_ends_it);

fn s80_a_server_that_dies_during_the_wait_ends_it(flavour: Flavour) {
    let bootstrap = private();
    let (report, reported) = mpsc::channel();
    let _ready = serve(&bootstrap, "hanging", move |_| {
        report.send(()).expect("the test listens");
        None
    });
    let hang = Process::start("hang", &bootstrap);
    let client = remote_in(flavour, &bootstrap, "hang");
    let calls = count_invalidation_of_remote(&client);
    let asking = thread::spawn({
        let client = client.clone();
        move || ask(&client, 0, b"")
    });
    reported
        .recv_timeout(PATIENCE)
        .expect("the request arrives");
    let begin = Instant::now();
    hang.kill();
    let error = join(asking).expect_err("no answer");
    assert!(begin.elapsed() < PATIENCE / 2, "it waited for the time-out");
    assert!(
        matches!(error, SendRequestError::BecameInvalid),
        "{error:?}"
    );
    assert_eq!((error.code(), calls.load(Ordering::SeqCst)), (-5, 1));
    assert!(!client.is_valid());
}

in_both_flavours!(s80_invalidating_a_remote_port_ends_the_waits_on_it);

fn s80_invalidating_a_remote_port_ends_the_waits_on_it(flavour: Flavour) {
    let bootstrap = private();
    let (started, start) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let _port = serve(&bootstrap, "n", move |_| {
        started.send(()).expect("the test listens");
        released.lock().expect("not poisoned").recv().ok();
        None
    });
    let client = remote_in(flavour, &bootstrap, "n");
    let asking = thread::spawn({
        let client = client.clone();
        move || ask(&client, 0, b"")
    });
    start.recv_timeout(PATIENCE).expect("the request arrives");
    client.invalidate();
    let error = join(asking).expect_err("no answer");
    assert!(
        matches!(error, SendRequestError::BecameInvalid),
        "{error:?}"
    );
    drop(release);
}

in_both_flavours!(s82_payloads_of_every_size_travel_both_ways);

fn s82_payloads_of_every_size_travel_both_ways(flavour: Flavour) {
    let bootstrap = private();
    let _echo = Process::start("echo", &bootstrap);
    let echo = remote_in(flavour, &bootstrap, "echo");
    for len in [0, 1, 3999, 4000, 4001, 10 << 20] {
        let data: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        let answer = ask(&echo, ECHO, &data).expect("an answer");
        assert!(answer == data, "{len} bytes changed on the way");
        let answer = ask(&echo, LENGTH, &data).expect("an answer");
        assert_eq!(answer, len.to_string().as_bytes());
        let answer = ask(&echo, PRODUCE, len.to_string().as_bytes()).expect("an answer");
        assert!(
            answer == vec![b'p'; len],
            "an answer of {len} bytes changed on the way"
        );
    }
}

in_both_flavours!(a_request_or_an_answer_over_the_limit_is_a_transport_error);

fn a_request_or_an_answer_over_the_limit_is_a_transport_error(flavour: Flavour) {
    let bootstrap = private();
    let _port = serve(&bootstrap, "n", |request| match request.id() {
        0 => None,
        _ => Some(vec![0; MAX_MESSAGE_BYTES + 1]),
    });
    let client = remote_in(flavour, &bootstrap, "n");
    let error = client.send_request(0, vec![7; MAX_MESSAGE_BYTES + 1], PATIENCE, ANSWER);
    match error.expect_err("it is too large") {
        SendRequestError::TransportError(RequestError::Send(error)) => {
            let len = MAX_MESSAGE_BYTES + 1;
            assert!(matches!(error.kind(), SendErrorKind::TooLarge { len: l } if *l == len));
            assert_eq!(error.into_message().into_bytes().len(), len);
        }
        other => panic!("{other:?}"),
    }
    let error = ask(&client, 1, b"").expect_err("the answer is too large");
    assert!(is_no_reply(&error), "{error:?}");
    assert_eq!(ask(&client, 0, b"").expect("the port goes on"), b"");
}

in_both_flavours!(s83_a_callback_may_ask_in_turn);

fn s83_a_callback_may_ask_in_turn(flavour: Flavour) {
    let bootstrap = private();
    let _back = serve(&bootstrap, "back", |request| {
        Some([b"back:", request.data()].concat())
    });
    let _relay = Process::start(&format!("relay {flavour:?}"), &bootstrap);
    let relay = remote_in(flavour, &bootstrap, "relay");
    let begin = Instant::now();
    let answers = ["one", "two"].map(|data| ask(&relay, 0, data.as_bytes()).expect("an answer"));
    assert_eq!(answers, [b"relay:back:one", b"relay:back:two"]);
    assert!(begin.elapsed() < PATIENCE / 2);
}

in_both_flavours!(s83_a_callback_may_ask_another_port_of_its_process);

fn s83_a_callback_may_ask_another_port_of_its_process(flavour: Flavour) {
    let bootstrap = private();
    let _inner = serve(&bootstrap, "inner", |request| {
        Some([b"inner:", request.data()].concat())
    });
    let inner = remote_in(flavour, &bootstrap, "inner");
    let _outer = serve(&bootstrap, "outer", move |request| {
        let answer = ask(&inner, request.id(), request.data()).expect("an answer");
        Some([b"outer:", &*answer].concat())
    });
    let answer = ask(&remote_in(flavour, &bootstrap, "outer"), 0, b"x").expect("an answer");
    assert_eq!(answer, b"outer:inner:x");
}

in_both_flavours!(s83_a_callback_may_serve_its_own_port);

fn s83_a_callback_may_serve_its_own_port(flavour: Flavour) {
    let bootstrap = private();
    let own: Arc<OnceLock<LocalMessagePort>> = Arc::default();
    let (seen, order) = mpsc::channel();
    let port = create(&bootstrap, "n", {
        let own = Arc::clone(&own);
        move |request| {
            if request.id() == 1 {
                let own = own.get().expect("the test has set it");
                assert_eq!(own.run_once(PATIENCE).expect("served"), Pass::Handled);
            }
            seen.send(request.id()).expect("the test listens");
            None
        }
    });
    own.set(port.clone()).expect("only here");
    let client = remote_to(&port, &bootstrap, flavour);
    for id in [1, 2] {
        client
            .send_request(id, "", PATIENCE, ReplyMode::None)
            .expect("queued");
    }
    assert_eq!(port.run_once(PATIENCE).expect("served"), Pass::Handled);
    assert_eq!(order.try_iter().collect::<Vec<_>>(), [2, 1]);
    port.invalidate();
    assert!(Arc::strong_count(&own) == 1, "the callback was not dropped");
}

in_both_flavours!(s83_a_late_answer_satisfies_no_other_request);

fn s83_a_late_answer_satisfies_no_other_request(flavour: Flavour) {
    let bootstrap = private();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let _port = serve(&bootstrap, "n", move |request| {
        if request.id() == 1 {
            released.lock().expect("not poisoned").recv().ok();
        }
        Some(request.id().to_string().into())
    });
    let client = remote_in(flavour, &bootstrap, "n");
    let soon = ReplyMode::ReceiveTimeout(Duration::from_millis(5));
    let late = client.send_request(1, "", PATIENCE, soon);
    assert_eq!(late.expect_err("it is held back").code(), -2);
    drop(release);
    assert_eq!(ask(&client, 2, b"").expect("an answer"), b"2");
    assert_eq!(ask(&client, 3, b"").expect("an answer"), b"3");
}

in_both_flavours!(s83_threads_that_share_a_remote_port_get_their_own_answers);

fn s83_threads_that_share_a_remote_port_get_their_own_answers(flavour: Flavour) {
    let bootstrap = private();
    let _echo = Process::start("echo", &bootstrap);
    let echo = remote_in(flavour, &bootstrap, "echo");
    thread::scope(|scope| {
        for thread in 0..8 {
            let echo = &echo;
            scope.spawn(move || {
                for turn in 0..200 {
                    let data = format!("{thread}:{turn}").repeat(turn);
                    let answer = ask(echo, ECHO, data.as_bytes()).expect("an answer");
                    assert!(answer == data.as_bytes(), "an answer to somebody else");
                }
            });
        }
    });
}

in_both_flavours!(s84_invalidation_happens_once_and_frees_the_name);

fn s84_invalidation_happens_once_and_frees_the_name(flavour: Flavour) {
    let bootstrap = private();
    let context = Arc::new(());
    let held = Arc::clone(&context);
    let port = create(&bootstrap, "echo", move |_| {
        assert!(Arc::strong_count(&held) > 1);
        None
    });
    let calls = Arc::new(AtomicU32::new(0));
    port.set_invalidation_callback(counter(&calls));
    let client = remote_to(&port, &bootstrap, flavour);
    let client_calls = count_invalidation_of_remote(&client);
    assert!(client.is_valid());
    assert_eq!(Arc::strong_count(&context), 2);

    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| port.invalidate());
        }
    });
    assert!(!port.is_valid());
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!(
        Arc::strong_count(&context),
        1,
        "the callback was not released"
    );
    assert!(!client.is_valid());
    assert!(!client.is_valid());
    assert_eq!(client_calls.load(Ordering::SeqCst), 1);

    port.set_invalidation_callback(counter(&calls));
    assert_eq!(
        calls.load(Ordering::SeqCst),
        2,
        "a late callback is called at once"
    );
    drop(port);
    assert_eq!(calls.load(Ordering::SeqCst), 2);

    let _echo = Process::start("echo", &bootstrap);
    assert_eq!(
        ask(&remote_in(flavour, &bootstrap, "echo"), ECHO, b"x").expect("an answer"),
        b"x"
    );
}

#[test]
fn s84_the_name_can_be_taken_again_at_once() {
    let bootstrap = private();
    for round in 0..50 {
        let port = create(&bootstrap, "n", move |_| Some(vec![round]));
        port.spawn().expect("a thread");
        assert_eq!(
            ask(&remote(&bootstrap, "n"), 0, b"").expect("an answer"),
            [round]
        );
        if round % 2 == 0 {
            port.invalidate();
        }
    }
}

in_both_flavours!(s84_whoever_serves_a_port_returns_when_it_is_invalid);

fn s84_whoever_serves_a_port_returns_when_it_is_invalid(flavour: Flavour) {
    let bootstrap = private();
    let port = create(&bootstrap, "n", |request| {
        request.invalidate_port();
        Some(b"the last answer".into())
    });
    let threads: Vec<_> = (0..4).map(|_| port.spawn().expect("a thread")).collect();
    assert_eq!(
        ask(&remote_in(flavour, &bootstrap, "n"), 0, b"").expect("an answer"),
        b"the last answer"
    );
    for thread in threads {
        join(thread).expect("no error");
    }
    port.run().expect("it is invalid");
    assert_eq!(
        port.run_once(Duration::ZERO).expect("it is invalid"),
        Pass::Invalid
    );
}

in_both_flavours!(s84_dropping_the_last_handle_invalidates);

fn s84_dropping_the_last_handle_invalidates(flavour: Flavour) {
    let bootstrap = private();
    let port = create(&bootstrap, "n", |_| None);
    let calls = Arc::new(AtomicU32::new(0));
    port.set_invalidation_callback(counter(&calls));
    let thread = port.spawn().expect("a thread");
    let client = remote_in(flavour, &bootstrap, "n");
    let client_calls = count_invalidation_of_remote(&client);
    drop(port.clone());
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    drop(port);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    join(thread).expect("no error");
    drop(client);
    assert_eq!(client_calls.load(Ordering::SeqCst), 1);
}

#[test]
fn s84_a_callback_of_the_invalidation_may_make_the_port_again() {
    let bootstrap = private();
    let port = create(&bootstrap, "n", |_| None);
    let (made, again) = mpsc::channel();
    let copy = bootstrap.copy().expect("a right for the callback");
    port.set_invalidation_callback(move || {
        made.send(create(&copy, "n", |_| None))
            .expect("the test listens");
    });
    port.invalidate();
    assert!(again.try_recv().expect("it was called").is_valid());
}

in_both_flavours!(a_callback_that_panics_fails_its_request_only);

fn a_callback_that_panics_fails_its_request_only(flavour: Flavour) {
    let bootstrap = private();
    let _echo = Process::start("echo", &bootstrap);
    let echo = remote_in(flavour, &bootstrap, "echo");
    let begin = Instant::now();
    for _ in 0..3 {
        let error = ask(&echo, PANIC, b"").expect_err("it panicked");
        assert_eq!(error.code(), -4);
        assert!(is_no_reply(&error), "{error:?}");
        assert_eq!(
            ask(&echo, ECHO, b"still there").expect("an answer"),
            b"still there"
        );
    }
    assert!(begin.elapsed() < PATIENCE / 2, "it waited for the time-out");
    assert!(echo.is_valid());
}

in_both_flavours!(the_sender_is_who_the_kernel_says);

fn the_sender_is_who_the_kernel_says(flavour: Flavour) {
    let bootstrap = private();
    let echo = Process::start("echo", &bootstrap);
    let answer = ask(&remote_in(flavour, &bootstrap, "echo"), SENDER, b"").expect("an answer");
    assert_eq!(answer, std::process::id().to_string().as_bytes());
    assert_ne!(echo.id(), std::process::id());
}

in_both_flavours!(an_event_loop_can_serve_a_port);

fn an_event_loop_can_serve_a_port(flavour: Flavour) {
    let bootstrap = private();
    let port = create(&bootstrap, "n", |_| None);
    let client = remote_to(&port, &bootstrap, flavour);
    // The server has made a right for the client, and the port has not seen to that.
    assert_eq!(
        port.run_once(Duration::ZERO).expect("served"),
        Pass::TimedOut
    );
    assert!(!is_readable(&port, Duration::ZERO));
    client
        .send_request(0, "", PATIENCE, ReplyMode::None)
        .expect("queued");
    assert!(is_readable(&port, PATIENCE));
    assert_eq!(
        port.run_once(Duration::ZERO).expect("served"),
        Pass::Handled
    );
    assert!(!is_readable(&port, Duration::ZERO));
    assert!(!is_readable(&client, Duration::ZERO));
    port.invalidate();
    assert!(is_readable(&port, Duration::ZERO));
    assert!(
        is_readable(&client, PATIENCE),
        "the death can be waited for"
    );
    assert!(!client.is_valid());
}

const ECHO: i32 = 1;
const NOTHING: i32 = 2;
const LENGTH: i32 = 3;
const PRODUCE: i32 = 4;
const PANIC: i32 = 5;
const SENDER: i32 = 6;

/// The other process: serves `echo` until it is killed.
fn play_echo() {
    let bootstrap = Bootstrap::from_env().expect("the inherited right");
    let port = create(&bootstrap, "echo", |request| match request.id() {
        NOTHING => None,
        LENGTH => Some(request.data().len().to_string().into()),
        PRODUCE => {
            let len = std::str::from_utf8(request.data()).expect("digits");
            Some(vec![b'p'; len.parse().expect("digits")])
        }
        // A panic, only without a word on the standard error.
        PANIC => resume_unwind(Box::new("as asked")),
        SENDER => Some(request.sender().pid()?.to_string().into()),
        _ => Some(request.into_data()),
    });
    ready(&bootstrap);
    port.run().expect("served");
}

/// The other process: says that it has a request, and never answers it.
fn play_hang() {
    let bootstrap = Bootstrap::from_env().expect("the inherited right");
    let report = remote(&bootstrap, "hanging");
    let port = create(&bootstrap, "hang", move |_| {
        ask(&report, 0, b"").expect("the test knows");
        loop {
            thread::park();
        }
    });
    ready(&bootstrap);
    port.run().expect("served");
}

/// The other process: passes each request on to `back`, on the thread that got it.
fn play_relay(flavour: Flavour) {
    let bootstrap = Bootstrap::from_env().expect("the inherited right");
    let back = remote_in(flavour, &bootstrap, "back");
    let port = create(&bootstrap, "relay", move |request| {
        let answer = ask(&back, request.id(), request.data()).expect("an answer");
        Some([b"relay:", &*answer].concat())
    });
    ready(&bootstrap);
    port.run().expect("served");
}

/// What the thread returns, unless it hangs.
fn join<T>(thread: JoinHandle<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    while !thread.is_finished() {
        assert!(Instant::now() < deadline, "the thread does not end");
        thread::yield_now();
    }
    thread.join().expect("no panic")
}

fn counter(calls: &Arc<AtomicU32>) -> impl FnOnce() + Send + 'static {
    let calls = Arc::clone(calls);
    move || {
        calls.fetch_add(1, Ordering::SeqCst);
    }
}

fn count_invalidation_of_remote(port: &RemoteMessagePort) -> Arc<AtomicU32> {
    let calls = Arc::new(AtomicU32::new(0));
    port.set_invalidation_callback(counter(&calls));
    calls
}

fn is_no_reply(error: &SendRequestError) -> bool {
    matches!(
        error,
        SendRequestError::TransportError(RequestError::Reply(ReplyError::NoReply))
    )
}

/// The other process, killed when this is dropped.
struct Process(Child);

/// What the other process plays.
const PART: &str = "PORTOLAN_TEST_PART";

/// Names the port that the other process sends to when it is ready.
const READY: &str = "PORTOLAN_TEST_READY";

impl Process {
    /// Runs a part in another process until that is ready.
    fn start(part: &str, bootstrap: &Bootstrap) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let ready = format!("ready.{}", STARTED.fetch_add(1, Ordering::Relaxed));
        let port = bootstrap.check_in(&name(&ready)).expect("a port");
        let right = bootstrap.copy().expect("a right for the other process");
        let socket = right.into_right().into_socket().expect("an unused right");
        let mut command = Command::new(env::current_exe().expect("this program"));
        command
            .args(["play_a_part", "--exact", "--nocapture"])
            .env(PART, part)
            .env(READY, ready);
        command.env("PORTOLAN_BOOTSTRAP_FD", "0").stdin(socket);
        let process = Self(command.stdout(Stdio::null()).spawn().expect("a process"));
        port.receive(PATIENCE).expect("the process is ready");
        process
    }

    fn id(&self) -> u32 {
        self.0.id()
    }

    /// Ends it as `kill -9` does.
    fn kill(self) {
        drop(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().expect("kill");
        self.0.wait().expect("wait");
    }
}

fn role() -> Option<String> {
    env::var(PART).ok()
}

fn ready(bootstrap: &Bootstrap) {
    let ready = env::var(READY).expect("this is the other process");
    let right = bootstrap.look_up(&name(&ready)).expect("the test waits");
    right
        .send(Message::new(0), PATIENCE)
        .expect("the test waits");
}

/// The server hears of the end of a process in its own time.
fn wait_until_free(bootstrap: &Bootstrap, text: &str) {
    let deadline = Instant::now() + PATIENCE;
    while bootstrap.look_up(&name(text)).is_ok() {
        assert!(Instant::now() < deadline, "the name is still taken");
        thread::yield_now();
    }
}
