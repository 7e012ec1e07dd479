//! Two members of a group, and a stranger.

use crate::part::{GROUP, HOST};
use crate::site::{Site, Tier, until};

/// Sockets of their own are for those who have namespaces.
fn ways(tier: Tier) -> &'static [&'static str] {
    match tier {
        Tier::T1 => &["lent"],
        Tier::T2 => &["own", "lent"],
    }
}

fn meet(site: &Site, host: (Tier, &str), guest: (Tier, &str)) {
    let (host_part, guest_part) = (format!("host {}", host.1), format!("guest {}", guest.1));
    site.start(("org.example.host", &host_part), host.0, GROUP);
    site.until_published("org.example.host", HOST);
    for tier in site.tiers() {
        site.start(("org.example.stranger", "stranger"), tier, "group.b");
        site.expect_done("org.example.stranger");
    }
    site.start(("org.example.guest", &guest_part), guest.0, GROUP);
    site.expect_done("org.example.guest");
    site.expect_done("org.example.host");
    // What has a name outlives the jobs.
    site.world().run(["shm", "unlink", "group.a/frames"]).ok();
    site.world().run(["sem", "unlink", "group.a/turn"]).ok();
}

#[test]
fn w28_members_exchange_messages_memory_and_sockets_and_a_stranger_has_none_of_them() {
    let site = Site::new();
    let sides: Vec<(Tier, &str)> = site
        .tiers()
        .into_iter()
        .flat_map(|tier| ways(tier).iter().map(move |way| (tier, *way)))
        .collect();
    for host in &sides {
        for guest in &sides {
            meet(&site, *host, *guest);
        }
    }
}

#[test]
fn w28_what_a_stranger_is_refused_is_logged_with_what_would_allow_it() {
    let site = Site::new();
    site.start(("org.example.host", "host lent"), Tier::T1, GROUP);
    site.until_published("org.example.host", HOST);
    site.start(("org.example.stranger", "stranger"), Tier::T1, "group.b");
    site.expect_done("org.example.stranger");
    let lines = [
        "deny mach-lookup \"group.a.host\"",
        "deny ipc-posix-shm \"group.a/frames\"",
        "deny ipc-posix-sem \"group.a/turn\"",
        "deny network-outbound \"group.a/sockets/host\"",
        "deny network-bind \"group.a/own\"",
    ];
    for line in lines {
        let line = format!("org.example.stranger: {line}; allowed by");
        until(&line, || site.world().log().contains(&line));
    }
    let log = site.world().log();
    let denials = log.lines().filter(|line| line.contains("deny"));
    let remedy = "com.apple.security.application-groups with \"group.a\"";
    for line in denials {
        assert!(line.contains(remedy), "{line}");
    }
}

#[test]
fn w12_a_group_shares_memory_and_semaphores_where_the_machines_are_not_reached() {
    assert!(std::fs::read_dir("/dev/shm").is_ok(), "outside, it is");
    let site = Site::new();
    for tier in site.tiers() {
        site.start(("org.example.posix", "posix"), tier, GROUP);
        site.expect_done("org.example.posix");
    }
}

#[test]
fn w28_programs_of_portolan_run_are_members_too() {
    let site = Site::new();
    site.start(("org.example.host", "host lent"), Tier::T1, GROUP);
    site.until_published("org.example.host", HOST);
    let world = site.world();
    let file = world.write("entitlements.toml", crate::site::entitlements(GROUP));
    let actor = world.path("bin/actor");
    let arguments = [
        "run",
        "--isolation",
        "T1",
        "--entitlements",
        file.to_str().expect("a path"),
        "--",
        actor.to_str().expect("a path"),
        "--exact",
        "play_a_part",
        "--nocapture",
    ];
    let mut command = world.command(arguments);
    let ran = command.env(crate::part::PART, "guest lent").output();
    crate::world::ran(ran.expect("run")).ok();
    site.expect_done("org.example.host");
}
