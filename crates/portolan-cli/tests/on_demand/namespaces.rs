//! Namespaces within others (`bootstrap_subset`), by the calls of a client.

use portolan::bootstrap::{Bootstrap, BootstrapError};
use portolan::{ReceiveRight, SendRight};
use rustix::process::Signal;

use crate::director::{Director, PATIENCE, code, label, name, send};

/// A namespace, and the port with which it goes.
fn subset(of: &Bootstrap) -> (Bootstrap, ReceiveRight) {
    let requestor = ReceiveRight::new().expect("port");
    let right = requestor.make_send().expect("right");
    (of.subset(right).expect("subset"), requestor)
}

fn look_up(bootstrap: &Bootstrap, text: &str) -> Result<SendRight, BootstrapError> {
    bootstrap.look_up(&name(text))
}

/// Nobody answers in a namespace that is gone.
fn is_gone(bootstrap: &Bootstrap) {
    let asked = look_up(bootstrap, "test.a");
    assert!(
        matches!(asked, Err(BootstrapError::Unreachable(_))),
        "{asked:?}"
    );
}

#[test]
fn s66_the_names_of_a_namespace_are_seen_within_it_and_go_with_its_requestor() {
    let director = Director::new();
    director.load("job", "MachServices.'test.a' = true");
    let root = &director.bootstrap;
    let (outer, requestor) = subset(root);
    let (inner, _requestor) = subset(&outer);
    let around = look_up(root, "test.a").expect("look up").port();
    assert_eq!(look_up(&inner, "test.a").expect("look up").port(), around);

    let own = outer.check_in(&name("test.a")).expect("it shadows");
    let inmost = inner.check_in(&name("test.b")).expect("check in");
    assert_eq!(look_up(&inner, "test.a").expect("look up").port(), own.id());
    assert_eq!(look_up(&outer, "test.a").expect("look up").port(), own.id());
    assert_eq!(look_up(root, "test.a").expect("look up").port(), around);
    assert_eq!(
        look_up(&inner, "test.b").expect("look up").port(),
        inmost.id()
    );
    for above in [root, &outer] {
        assert_eq!(code(look_up(above, "test.b")), 1102);
    }
    assert_eq!(code(outer.check_in(&name("test.a"))), 1103);

    drop(requestor);
    // Whoever asks next sees it.
    look_up(root, "test.a").expect("the others are as they were");
    is_gone(&outer);
    is_gone(&inner);
    assert_eq!(code(look_up(root, "test.b")), 1102);
    let right = own.make_send().expect("the port itself lives");
    send(&right, [66]);
    assert_eq!(own.receive(PATIENCE).expect("a message").id(), 66);
}

#[test]
fn s66_a_namespace_goes_with_the_process_that_asked_for_it() {
    let director = Director::new();
    director.load("job", "");
    let actor = director.kickstart("job");
    let subset = actor.subset();
    let _port = subset.check_in(&name("test.own")).expect("check in");
    look_up(&subset, "test.own").expect("look up");
    actor.kill(Signal::KILL);
    assert_eq!(code(director.look_up("test.own")), 1102);
    is_gone(&subset);
}

#[test]
fn s66_a_message_through_a_namespace_starts_a_job_around_it() {
    let director = Director::new();
    director.load("job", "MachServices.'test.a' = true");
    let (outer, _outer) = subset(&director.bootstrap);
    let (inner, _inner) = subset(&outer);
    send(&look_up(&inner, "test.a").expect("look up"), [1]);
    let actor = director.actor();
    actor.check_in("test.a");
    assert_eq!(actor.receive("test.a"), 1);
}

#[test]
fn s66_each_namespace_knows_the_one_around_it() {
    let director = Director::new();
    let root = &director.bootstrap;
    let (outer, _outer) = subset(root);
    let (inner, _inner) = subset(&outer);
    let parent = |of: &Bootstrap| of.parent().expect("parent");
    // Where a name is published tells which namespace it is.
    let marks = [
        (root, "test.root"),
        (&outer, "test.outer"),
        (&inner, "test.inner"),
    ];
    let _ports = marks.map(|(of, text)| of.check_in(&name(text)).expect("check in"));
    let seen = |of: &Bootstrap| marks.map(|(_, text)| look_up(of, text).is_ok());
    assert_eq!(seen(&inner), [true, true, true]);
    assert_eq!(seen(&parent(&inner)), [true, true, false]);
    assert_eq!(seen(&parent(&outer)), [true, false, false]);
    assert_eq!(seen(&parent(root)), [true, false, false]);
}

#[test]
fn a_namespace_needs_a_requestor_that_lives() {
    let director = Director::new();
    let requestor = ReceiveRight::new().expect("port");
    let right = requestor.make_send().expect("right");
    drop(requestor);
    assert_eq!(code(director.bootstrap.subset(right)), 1100);
}

#[test]
fn the_namespace_around_is_not_that_of_a_program_that_is_confined_in_it() {
    let root = Bootstrap::private().expect("a server");
    let (outer, _requestor) = subset(&root);
    let (inner, _requestor) = subset(&outer);
    let sandboxed = b"<plist><dict><key>com.apple.security.app-sandbox</key><true/></dict></plist>";
    let confined = || outer.confine(&label("test.confined"), sandboxed);
    let _confined: Vec<_> = (0..20).map(|_| confined().expect("confine")).collect();
    let around = inner.parent().expect("parent");
    around.check_in(&name("test.a")).expect("it may");
}
