//! `portolan sandbox selftest`, and tiers that a program needs and the machine lacks.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use crate::world::{Ran, World, ran};

const SANDBOX: &str = "\"com.apple.security.app-sandbox\" = true\n";

#[test]
fn w21_the_self_test_of_the_command_finds_nothing() {
    let world = World::of_a_user();
    let printed = String::from_utf8(world.run(["sandbox", "selftest"]).ok()).expect("text");
    let is_summary = |line: &&str| line.starts_with("T1: ") || line.starts_with("T2: ");
    let summary: Vec<&str> = printed.lines().filter(is_summary).collect();
    assert!(!summary.is_empty(), "{printed}");
    for tier in summary {
        assert!(tier.ends_with(", 0 BROKEN, 0 ESCAPED"), "{printed}");
    }
}

#[test]
fn the_self_test_says_what_it_did_in_json() {
    let world = World::of_a_user();
    let names = ["read_passwd", "stat_outside", "bootstrap"];
    let mut arguments = vec!["sandbox", "selftest", "--json", "--tier", "T1"];
    arguments.extend(names);
    let output = world.command(arguments).output().expect("run portolan");
    let report: serde_json::Value = serde_json::from_slice(&ran(output).ok()).expect("JSON");
    assert_eq!(report["good"], true);
    let verdict = |name: &str| {
        let attempts = report["attempts"].as_array().expect("a list");
        let made = attempts.iter().find(|one| one["name"] == name);
        let inside = &made.expect("it was made")["inside"][0];
        assert_eq!(inside["tier"], "T1");
        inside["verdict"].as_str().expect("a word").to_owned()
    };
    assert_eq!(names.map(verdict), ["held", "leak", "works"]);
    let unknown = world.run(["sandbox", "selftest", "no_such_attempt"]);
    unknown.fails(2, "no attempt no_such_attempt");
}

/// Runs the command of this world where user namespaces are off.
fn without_namespaces(world: &World, arguments: &[&str]) -> Ran {
    let inner = world.command(arguments);
    let mut command = Command::new(world.program().with_file_name("portolan-probe"));
    let (user, group) = world.ids();
    if rustix::process::geteuid().is_root() {
        command.uid(user).gid(group);
    }
    command
        .arg("alone")
        .arg(inner.get_program())
        .args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    ran(command
        .stdin(Stdio::null())
        .output()
        .expect("portolan-probe"))
}

#[test]
fn w22_a_program_that_requires_a_missing_tier_is_not_started() {
    let world = World::of_a_user();
    let file = world.write("entitlements.toml", SANDBOX);
    let file = file.to_str().expect("a path");
    let run = |isolation| {
        let arguments = [
            "run",
            "--isolation",
            isolation,
            "--entitlements",
            file,
            "--",
        ];
        let script = ["sh", "-c", "echo started"];
        without_namespaces(&world, &[&arguments[..], &script[..]].concat())
    };
    let refused = run("required:T2");
    assert_eq!(refused.stdout, b"");
    refused.fails(78, "T2 needs user namespaces");
    assert_eq!(run("best").ok(), b"started\n");
    without_namespaces(&world, &["sandbox", "selftest", "--tier", "T2"])
        .fails(78, "T2 needs user namespaces");
    without_namespaces(&world, &["shutdown"]).ok();
}

#[test]
fn w22_a_job_that_requires_a_missing_tier_is_not_started() {
    let world = World::of_a_user();
    let job = "Label = 'test.walled'\nProgram = '/bin/true'\nIsolation = 'required:T2'\n\
               [Entitlements]\n'com.apple.security.app-sandbox' = true\n";
    let file = world.write("walled.toml", job);
    world.give(&file);
    without_namespaces(&world, &["load", file.to_str().expect("a path")]).ok();
    let started = without_namespaces(&world, &["kickstart", "test.walled"]);
    started.fails(11, "T2 needs user namespaces");
    let printed = without_namespaces(&world, &["print", "test.walled"]).ok();
    let printed = String::from_utf8(printed).expect("text");
    assert!(printed.contains("T2 needs user namespaces"), "{printed}");
    without_namespaces(&world, &["shutdown"]).ok();
}
