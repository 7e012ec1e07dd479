//! Who sends more than is received harms nobody else.

use std::time::{Duration, Instant};

use portolan::{Message, ReceiveRight};

use crate::part::{ECHO, HOLD};
use crate::site::{NAME, PATIENCE, Site, name, parse, request, show, until};

/// As many descriptors as the flooding job may have, and so as many as it can have in flight.
const DESCRIPTORS: u32 = 200;

#[test]
fn l39_a_sender_that_fills_its_queues_cannot_stop_another() {
    let site = Site::with("serve", "");
    let right = site.look_up();
    // While the job does not receive, queues fill.
    let held = right
        .begin_request(Message::new(HOLD), PATIENCE)
        .expect("send");
    start_flood(&site);
    until("its queues are full", || !site.lines("full").is_empty());

    let start = Instant::now();
    let fresh = site.bootstrap.look_up(&name()).expect("look up");
    site.bootstrap.jobs().expect("jobs");
    let (bytes, rights) = (vec![b'y'; 100_000], ReceiveRight::new().expect("port"));
    let message = Message::new(ECHO).with_bytes(&bytes[..]);
    let message = message.with_right(rights.make_send().expect("send right"));
    let pending = fresh.begin_request(message, PATIENCE).expect("send");
    show(&format!(
        "the server and the service took requests in {:?}",
        start.elapsed()
    ));
    assert!(start.elapsed() < Duration::from_secs(5));

    site.write("gate", "");
    held.wait(PATIENCE).expect("answer");
    let answer = pending.wait(PATIENCE).expect("answer");
    assert_eq!(parse(&answer).1, bytes);
    // The other goes on sending all the time.
    for _ in 0..100 {
        let start = Instant::now();
        let (_, echo) = request(&fresh, ECHO, b"z").expect("answer");
        assert_eq!(echo, b"z");
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    show(&format!("all was answered within {:?}", start.elapsed()));
}

/// Starts a job that sends as much as it can: as another user, if this one may do that.
fn start_flood(site: &Site) {
    use std::fs::{Permissions, copy, set_permissions};
    use std::os::unix::fs::PermissionsExt as _;
    // Another user cannot look into the directory of this program.
    let program = site.path("flood");
    copy(std::env::current_exe().expect("this program"), &program).expect("copy");
    let mut keys = format!(
        "RunAtLoad = true\nHardResourceLimits.NumberOfFiles = {DESCRIPTORS}\n\
         SoftResourceLimits.NumberOfFiles = {DESCRIPTORS}\n"
    );
    if rustix::process::getuid().is_root() {
        keys.push_str("UserName = 'nobody'\n");
        set_permissions(site.path(""), Permissions::from_mode(0o777)).expect("permissions");
    }
    let label = format!("{NAME}.flood");
    site.load(&site.file_of(&program, &label, "flood", &keys));
}
