//! The registry by itself: the rules, and a long random walk against a model that is too simple to
//! be wrong.

use std::collections::BTreeMap;

use portolan_wire::code::BootstrapCode;
use portolan_wire::name::ServiceName;
use portoland::registry::{
    ClientKey, Limit, MAX_CLIENTS_PER_PROGRAM, MAX_NAMES_PER_CLIENT, Offer, PortKey, ProgramKey,
    Registry, Sandbox, Scope,
};
use proptest::prelude::*;

fn name(text: &str) -> ServiceName {
    text.parse().expect("name")
}

fn registry() -> Registry {
    let mut registry = Registry::default();
    for (client, pid) in [(A, 100), (B, 200)] {
        registry.client_appeared(client, "label".parse().expect("label"), pid);
    }
    registry
}

const A: ClientKey = ClientKey(1);
const B: ClientKey = ClientKey(2);
const PROGRAM: ProgramKey = ProgramKey(1);
const ALLOWS: Sandbox = Sandbox::Allows;
const DENIES: Sandbox = Sandbox::Denies;

fn register(
    registry: &mut Registry,
    client: ClientKey,
    text: &str,
    port: u64,
) -> Result<(), BootstrapCode> {
    registry
        .register(
            client,
            (Scope::Global, name(text)),
            Offer::Port(PortKey(port)),
            ALLOWS,
        )
        .map(drop)
}

fn look_up(registry: &Registry, text: &str) -> Result<PortKey, BootstrapCode> {
    registry.look_up((Scope::Global, name(text)), ALLOWS)
}

#[test]
fn s70_a_refusal_comes_before_the_table() {
    let mut registry = registry();
    register(&mut registry, A, "taken", 1).expect("register");
    for text in ["taken", "missing"] {
        let key = (Scope::Global, name(text));
        assert_eq!(
            registry.look_up(key.clone(), DENIES),
            Err(BootstrapCode::NOT_PRIVILEGED)
        );
        assert_eq!(
            registry.status(key, DENIES),
            Err(BootstrapCode::NOT_PRIVILEGED)
        );
        for strict in [false, true] {
            let result =
                registry.check_in(B, (Scope::Global, name(text)), strict, PortKey(2), DENIES);
            assert_eq!(result, Err(BootstrapCode::NOT_PRIVILEGED));
        }
    }
}

#[test]
fn one_port_can_have_many_names_and_all_go_with_it() {
    let mut registry = registry();
    for text in ["one", "two"] {
        register(&mut registry, A, text, 7).expect("register");
    }
    registry.port_died(PortKey(7));
    for text in ["one", "two"] {
        assert_eq!(
            look_up(&registry, text),
            Err(BootstrapCode::UNKNOWN_SERVICE)
        );
        register(&mut registry, B, text, 8).expect("free for others");
    }
}

#[test]
fn an_exit_returns_the_ports_that_have_no_name_left() {
    let mut registry = registry();
    register(&mut registry, A, "one", 1).expect("register");
    register(&mut registry, A, "two", 1).expect("register");
    register(&mut registry, A, "three", 2).expect("register");
    let mut ports = registry.client_exited(A);
    ports.sort();
    assert_eq!(ports, [PortKey(1), PortKey(2)]);
    assert_eq!(registry.client_exited(A), []);
}

#[test]
fn a_client_that_is_not_known_gets_1105() {
    let mut registry = registry();
    let unknown = register(&mut registry, ClientKey(9), "x", 1);
    assert_eq!(unknown, Err(BootstrapCode::NO_MEMORY));
}

#[test]
fn the_names_of_a_client_are_limited() {
    let mut registry = registry();
    for k in 0..MAX_NAMES_PER_CLIENT {
        register(&mut registry, A, &format!("name.{k}"), 1).expect("below the limit");
    }
    assert_eq!(
        register(&mut registry, A, "more", 1),
        Err(BootstrapCode::NO_MEMORY)
    );
    register(&mut registry, B, "more", 2).expect("others are not affected");
}

#[test]
fn the_processes_of_a_program_have_the_names_of_one() {
    let mut registry = registry();
    for client in [A, B] {
        registry.client_joined(client, PROGRAM);
    }
    for k in 0..MAX_NAMES_PER_CLIENT {
        let client = [A, B][k % 2];
        register(&mut registry, client, &format!("name.{k}"), 1).expect("below the limit");
    }
    for client in [A, B] {
        let more = register(&mut registry, client, "more", 1);
        assert_eq!(more, Err(BootstrapCode::NO_MEMORY));
        assert_eq!(registry.limit_of(client.into()), Some(Limit::NamesOfOne));
    }
    let other = ClientKey(3);
    registry.client_appeared(other, "label".parse().expect("label"), 300);
    registry.client_joined(other, ProgramKey(2));
    register(&mut registry, other, "other", 2).expect("another program is not affected");
    registry.client_exited(A);
    register(&mut registry, B, "more", 1).expect("what has exited does not count");
}

#[test]
fn the_processes_of_a_program_are_limited() {
    let mut registry = registry();
    let limit = u64::try_from(MAX_CLIENTS_PER_PROGRAM).expect("small");
    for number in 10..10 + limit {
        let client = ClientKey(number);
        assert_eq!(registry.limit_of_program(PROGRAM, None), None);
        registry.client_appeared(client, "label".parse().expect("label"), 1);
        registry.client_joined(client, PROGRAM);
    }
    for unknown in [None, Some(A)] {
        let reached = registry.limit_of_program(PROGRAM, unknown);
        assert_eq!(reached, Some(Limit::Clients));
    }
    let own = registry.limit_of_program(PROGRAM, Some(ClientKey(10)));
    assert_eq!(own, None, "it is counted already");
    assert_eq!(registry.limit_of_program(ProgramKey(2), None), None);
    registry.client_exited(ClientKey(10));
    assert_eq!(registry.limit_of_program(PROGRAM, None), None);
}

#[derive(Clone, Debug)]
enum Step {
    Register {
        client: u64,
        name: u8,
        per_pid: bool,
        port: u64,
    },
    CheckIn {
        client: u64,
        name: u8,
        strict: bool,
    },
    PortDied {
        port: u64,
    },
    Exit {
        client: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (client, name, port) = (1..=3_u64, 0..4_u8, 1..=6_u64);
    prop_oneof![
        4 => (client.clone(), name.clone(), any::<bool>(), port.clone()).prop_map(
            |(client, name, per_pid, port)| Step::Register { client, name, per_pid, port }),
        2 => (client.clone(), name, any::<bool>()).prop_map(
            |(client, name, strict)| Step::CheckIn { client, name, strict }),
        2 => port.prop_map(|port| Step::PortDied { port }),
        1 => client.prop_map(|client| Step::Exit { client }),
    ]
}

/// Name by scope and text to owner and port.
type Model = BTreeMap<(Option<u32>, u8), (u64, u64)>;

fn expected(model: &Model, key: (Option<u32>, u8), client: u64) -> Result<(), BootstrapCode> {
    match model.get(&key) {
        None => Ok(()),
        Some((owner, _)) if *owner == client => Err(BootstrapCode::SERVICE_ACTIVE),
        Some(_) => Err(BootstrapCode::NOT_PRIVILEGED),
    }
}

fn pid(client: u64) -> u32 {
    u32::try_from(client).expect("small") * 10
}

fn scope(pid: Option<u32>) -> Scope {
    pid.map_or(Scope::Global, Scope::PerPid)
}

fn take(registry: &mut Registry, model: &mut Model, step: Step, fresh: &mut u64) {
    match step {
        Step::Register {
            client,
            name: n,
            per_pid,
            port,
        } => {
            let key = (per_pid.then(|| pid(client)), n);
            let named = (scope(key.0), name(&n.to_string()));
            let offer = Offer::Port(PortKey(port));
            let result = registry
                .register(ClientKey(client), named, offer, ALLOWS)
                .map(drop);
            assert_eq!(result, expected(model, key, client));
            if result.is_ok() {
                model.insert(key, (client, port));
            }
        }
        Step::CheckIn {
            client,
            name: n,
            strict,
        } => {
            *fresh += 1;
            let key = (None, n);
            let result = registry
                .check_in(
                    ClientKey(client),
                    (Scope::Global, name(&n.to_string())),
                    strict,
                    PortKey(*fresh),
                    ALLOWS,
                )
                .map(drop);
            if strict && !model.contains_key(&key) {
                assert_eq!(result, Err(BootstrapCode::UNKNOWN_SERVICE));
            } else {
                assert_eq!(result, expected(model, key, client));
            }
            if result.is_ok() {
                model.insert(key, (client, *fresh));
            }
        }
        Step::PortDied { port } => {
            registry.port_died(PortKey(port));
            model.retain(|_, (_, found)| *found != port);
        }
        Step::Exit { client } => exit(registry, model, client),
    }
}

fn exit(registry: &mut Registry, model: &mut Model, client: u64) {
    let mut gone = registry.client_exited(ClientKey(client));
    let owned: Vec<_> = model
        .values()
        .filter(|(owner, _)| *owner == client)
        .map(|(_, port)| *port)
        .collect();
    model.retain(|_, (owner, _)| *owner != client);
    let mut unnamed: Vec<_> = owned
        .into_iter()
        .filter(|port| model.values().all(|(_, found)| found != port))
        .map(PortKey)
        .collect();
    gone.sort();
    unnamed.sort();
    unnamed.dedup();
    assert_eq!(gone, unnamed);
    registry.client_appeared(
        ClientKey(client),
        "again".parse().expect("label"),
        pid(client),
    );
}

fn check(registry: &Registry, model: &Model) {
    assert_eq!(registry.list(|_, _| true).len(), model.len());
    for client in 0..=3 {
        let pid = (client > 0).then(|| pid(client));
        for n in 0..4 {
            let found = registry.look_up((scope(pid), name(&n.to_string())), ALLOWS);
            let known = model.get(&(pid, n)).map(|(_, port)| PortKey(*port));
            assert_eq!(found, known.ok_or(BootstrapCode::UNKNOWN_SERVICE));
        }
    }
}

proptest! {
    #[test]
    fn a_random_walk_agrees_with_the_model(steps in proptest::collection::vec(step(), 1..200)) {
        let mut registry = Registry::default();
        for client in 1..=3 {
            registry.client_appeared(ClientKey(client), "first".parse().expect("label"), pid(client));
        }
        let (mut model, mut fresh) = (Model::new(), 1000);
        for step in steps {
            take(&mut registry, &mut model, step, &mut fresh);
            check(&registry, &model);
        }
    }
}
