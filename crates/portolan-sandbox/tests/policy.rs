//! Which names a program may use.

use std::sync::Arc;

use portolan_sandbox::{Entitlements, Filter, Identity, Operation, Verdict, sandbox_check};
use proptest::prelude::*;

fn identity(toml: &str) -> Identity {
    let entitlements = Entitlements::parse(toml.as_bytes()).expect("entitlements");
    Identity::new(
        "com.example.app".parse().expect("label"),
        Arc::new(entitlements),
    )
}

fn member() -> Identity {
    identity(
        "'com.apple.security.app-sandbox' = true
         'com.apple.security.application-groups' = ['group.a', 'TEAM.shared']",
    )
}

fn allows(identity: &Identity, operation: Operation, filter: Filter, name: &str) -> bool {
    sandbox_check(identity, operation, filter, name) == Verdict::Allowed
}

const OPERATIONS: [Operation; 2] = [Operation::MachRegister, Operation::MachLookup];
const FILTERS: [Filter; 2] = [Filter::GlobalName, Filter::LocalName];

#[test]
fn s69_a_group_is_a_prefix_with_a_period() {
    let uuid = "E030B15B-3EC6-4A21-A415-668AD0CB1B52";
    let yes = [
        "group.a.x",
        "group.a.x.y",
        "group.a.",
        "TEAM.shared.z",
        "com.example.app",
        "com.example.app.helper",
    ];
    let no = [
        "group.a",
        "group.ax",
        "group.a:x",
        "other.group.a.x",
        "Group.a.x",
        "group",
        "",
        "com.example.application",
        "com.example",
        uuid,
    ];
    for operation in OPERATIONS {
        for filter in FILTERS {
            for name in yes {
                assert!(
                    allows(&member(), operation, filter, name),
                    "{operation} {name}"
                );
            }
            for name in no {
                assert!(
                    !allows(&member(), operation, filter, name),
                    "{operation} {name}"
                );
            }
        }
    }
}

#[test]
fn s71_exceptions_match_as_their_kind_does() {
    let app = identity(
        "'com.apple.security.app-sandbox' = true
         'com.apple.security.temporary-exception.mach-register.global-name' = 'a.b*'
         'com.apple.security.temporary-exception.mach-lookup.global-name' = ['a.b*', 'exact']
         'com.apple.security.temporary-exception.mach-register.local-name' = 'local'",
    );
    let register = |name| allows(&app, Operation::MachRegister, Filter::GlobalName, name);
    let look_up = |name| allows(&app, Operation::MachLookup, Filter::GlobalName, name);
    assert!(register("a.b") && register("a.bc") && register("a.b*"));
    assert!(!register("a.") && !register("xa.b") && !register("exact"));
    assert!(look_up("a.b*") && look_up("exact"));
    assert!(!look_up("a.b") && !look_up("a.bc") && !look_up("exactly"));
    assert!(allows(
        &app,
        Operation::MachRegister,
        Filter::LocalName,
        "local"
    ));
    assert!(!register("local"));
    assert!(!allows(
        &app,
        Operation::MachRegister,
        Filter::LocalName,
        "a.b"
    ));
}

#[test]
fn s73_without_a_sandbox_any_name_is_allowed() {
    let groups = "'com.apple.security.application-groups' = ['group.a']";
    let off = format!("'com.apple.security.app-sandbox' = false\n{groups}");
    for text in ["", groups, off.as_str()] {
        for operation in OPERATIONS {
            assert!(allows(
                &identity(text),
                operation,
                Filter::GlobalName,
                "anything"
            ));
        }
    }
}

#[test]
fn a_violation_is_one_line_that_names_the_remedy() {
    let cases = [
        (
            "group.b.x",
            "com.apple.security.application-groups with \"group.b\"",
        ),
        (
            "free\n[forged] line",
            "com.apple.security.temporary-exception.mach-register.global-name with \
             \"free\\n[forged] line\"",
        ),
    ];
    for (name, remedy) in cases {
        let Verdict::Denied(violation) =
            sandbox_check(&member(), Operation::MachRegister, Filter::GlobalName, name)
        else {
            panic!("{name} was allowed")
        };
        let line = violation.to_string();
        assert!(
            line.starts_with("com.example.app: deny mach-register \""),
            "{line}"
        );
        assert!(line.ends_with(remedy), "{line}");
        assert_eq!(line.lines().count(), 1);
        // What the line advises has to work.
        let advised = format!(
            "'com.apple.security.app-sandbox' = true\n'{}' = [{:?}]",
            violation.key, violation.value
        );
        assert!(allows(
            &identity(&advised),
            Operation::MachRegister,
            Filter::GlobalName,
            name
        ));
    }
}

const SHARED: [(Operation, Filter); 4] = [
    (Operation::IpcPosixShm, Filter::PosixName),
    (Operation::IpcPosixSem, Filter::PosixName),
    (Operation::NetworkOutbound, Filter::Path),
    (Operation::NetworkBind, Filter::Path),
];

#[test]
fn what_a_group_shares_is_for_its_members_alone() {
    let excepted = identity(
        "'com.apple.security.app-sandbox' = true
         'com.apple.security.temporary-exception.mach-register.global-name' = '*'",
    );
    for (operation, filter) in SHARED {
        for name in ["group.a/x", "group.a/x/y", "TEAM.shared/z"] {
            assert!(
                allows(&member(), operation, filter, name),
                "{operation} {name}"
            );
            assert!(
                !allows(&excepted, operation, filter, name),
                "{operation} {name}"
            );
        }
        for name in [
            "group.a.x",
            "group.a",
            "group.ax/x",
            "x/group.a/x",
            "com.example.app/x",
            "",
        ] {
            assert!(
                !allows(&member(), operation, filter, name),
                "{operation} {name}"
            );
        }
        let Verdict::Denied(violation) = sandbox_check(&member(), operation, filter, "group.b/x")
        else {
            panic!("{operation} was allowed")
        };
        let line = violation.to_string();
        let said = format!("com.example.app: deny {operation} \"group.b/x\"; allowed by");
        assert!(line.starts_with(&said), "{line}");
        assert!(
            line.ends_with("application-groups with \"group.b\""),
            "{line}"
        );
    }
}

proptest! {
    #[test]
    fn nothing_but_the_rules_allows_a_name(name in "(group|TEAM|com|a|b|\\.|x|[*]|shared|example|app){0,8}") {
        let by_rule = name.starts_with("group.a.")
            || name.starts_with("TEAM.shared.")
            || name == "com.example.app"
            || name.starts_with("com.example.app.");
        for operation in OPERATIONS {
            let allowed = allows(&member(), operation, Filter::GlobalName, &name);
            prop_assert_eq!(allowed, by_rule);
        }
    }
}
