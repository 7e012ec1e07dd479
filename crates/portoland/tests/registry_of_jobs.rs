//! Names of jobs and namespaces within each other, as the registry alone decides on them.

use portolan_wire::bootstrap::ServiceStatus;
use portolan_wire::code::BootstrapCode;
use portolan_wire::name::ServiceName;
use portoland::registry::{
    ClientKey, JobKey, MAX_DEPTH, MAX_SUBSETS, Namespace, Offer, Owner, PortKey, Registry, Sandbox,
    Scope, Visibility,
};

const CLIENT: ClientKey = ClientKey(1);
const JOB: JobKey = JobKey(1);
const OTHER: JobKey = JobKey(2);
const PORT: PortKey = PortKey(10);
const FRESH: PortKey = PortKey(99);
const REQUESTOR: Offer = Offer::Port(PortKey(70));

fn named(text: &str) -> (Scope, ServiceName) {
    (Scope::Global, text.parse().expect("name"))
}

fn within(namespace: u64, text: &str) -> (Scope, ServiceName) {
    let scope = Scope::Subset(Namespace(namespace));
    (scope, text.parse().expect("name"))
}

/// Two jobs, of which the first has declared `echo` and `hidden`, and a client.
fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.client_appeared(CLIENT, "client".parse().expect("label"), 100);
    for (job, label) in [(JOB, "job"), (OTHER, "other")] {
        registry.job_loaded(job, label.parse().expect("label"));
    }
    for (text, visibility, port) in [
        ("echo", Visibility::Always, PORT),
        ("hidden", Visibility::WhileActive, PortKey(11)),
    ] {
        let (_, name) = named(text);
        let declared = registry.declare(JOB, name, visibility, port);
        declared.expect("free");
    }
    registry
}

fn look_up(registry: &Registry, key: (Scope, ServiceName)) -> Result<PortKey, BootstrapCode> {
    registry.look_up(key, Sandbox::Allows)
}

fn register(
    registry: &mut Registry,
    owner: impl Into<Owner>,
    key: (Scope, ServiceName),
    offer: Offer,
) -> Result<Option<PortKey>, BootstrapCode> {
    registry.register(owner, key, offer, Sandbox::Allows)
}

fn check_in(
    registry: &mut Registry,
    owner: impl Into<Owner>,
    text: &str,
) -> Result<PortKey, BootstrapCode> {
    registry.check_in(owner, named(text), false, FRESH, Sandbox::Allows)
}

#[test]
fn s55_a_declared_name_is_refused_to_others_though_nobody_has_checked_it_in() {
    let mut registry = registry();
    for owner in [Owner::from(CLIENT), OTHER.into()] {
        let refused = Err(BootstrapCode::NOT_PRIVILEGED);
        assert_eq!(check_in(&mut registry, owner, "echo"), refused);
        for offer in [Offer::Port(FRESH), Offer::Dead, Offer::Nothing] {
            let result = register(&mut registry, owner, named("echo"), offer);
            assert_eq!(result, Err(BootstrapCode::NOT_PRIVILEGED));
        }
    }
    assert_eq!(check_in(&mut registry, JOB, "echo"), Ok(PORT));
    let again = check_in(&mut registry, JOB, "echo");
    assert_eq!(again, Err(BootstrapCode::SERVICE_ACTIVE));
}

#[test]
fn s57_a_name_that_a_job_registered_stays_until_its_port_dies_or_the_job_is_unloaded() {
    let mut registry = registry();
    for (text, port) in [("dies", 1), ("stays", 2)] {
        let offer = Offer::Port(PortKey(port));
        register(&mut registry, JOB, named(text), offer).expect("free");
    }
    assert_eq!(registry.job_exited(JOB), []);
    registry.port_died(PortKey(1));
    let unknown = Err(BootstrapCode::UNKNOWN_SERVICE);
    assert_eq!(look_up(&registry, named("dies")), unknown);
    assert_eq!(look_up(&registry, named("stays")), Ok(PortKey(2)));
    let mut gone = registry.job_unloaded(JOB);
    gone.sort();
    assert_eq!(gone, [PortKey(2), PORT, PortKey(11)]);
    assert_eq!(look_up(&registry, named("stays")), unknown);
    assert_eq!(look_up(&registry, named("echo")), unknown);
}

#[test]
fn s58_a_declared_name_is_found_before_its_job_runs() {
    let mut registry = registry();
    assert_eq!(look_up(&registry, named("echo")), Ok(PORT));
    assert_eq!(check_in(&mut registry, JOB, "echo"), Ok(PORT));
    assert_eq!(look_up(&registry, named("echo")), Ok(PORT));
}

#[test]
fn s59_a_right_that_came_back_can_be_checked_in_again() {
    let mut registry = registry();
    check_in(&mut registry, JOB, "echo").expect("inactive");
    registry.returned(PORT);
    assert_eq!(registry.job_exited(JOB), []);
    assert_eq!(look_up(&registry, named("echo")), Ok(PORT));
    assert_eq!(check_in(&mut registry, JOB, "echo"), Ok(PORT));
}

#[test]
fn s60_a_port_that_is_reset_is_found_under_the_same_name() {
    let mut registry = registry();
    check_in(&mut registry, JOB, "echo").expect("inactive");
    registry.returned(PORT);
    registry.replace(PORT, FRESH);
    registry.port_died(PORT);
    assert_eq!(look_up(&registry, named("echo")), Ok(FRESH));
    assert_eq!(check_in(&mut registry, JOB, "echo"), Ok(FRESH));
}

#[test]
fn s61_a_hidden_name_is_found_while_it_is_checked_in() {
    let mut registry = registry();
    let unknown = Err(BootstrapCode::UNKNOWN_SERVICE);
    assert_eq!(look_up(&registry, named("hidden")), unknown);
    assert_eq!(registry.list(|_, _| true).len(), 1);
    check_in(&mut registry, JOB, "hidden").expect("inactive");
    assert_eq!(look_up(&registry, named("hidden")), Ok(PortKey(11)));
    assert_eq!(registry.list(|_, _| true).len(), 2);
    registry.returned(PortKey(11));
    assert_eq!(look_up(&registry, named("hidden")), unknown);
}

#[test]
fn s63_a_name_of_one_process_goes_with_the_instance_of_the_job() {
    let mut registry = registry();
    registry.job_started(JOB, 300);
    let own = (Scope::PerPid(300), named("own").1);
    register(&mut registry, JOB, own.clone(), Offer::Port(FRESH)).expect("free");
    assert_eq!(look_up(&registry, own.clone()), Ok(FRESH));
    assert_eq!(registry.job_exited(JOB), [FRESH]);
    let unknown = Err(BootstrapCode::UNKNOWN_SERVICE);
    assert_eq!(look_up(&registry, own), unknown);
}

#[test]
fn s64_a_name_that_a_job_creates_by_checking_it_in_is_as_if_registered() {
    let mut registry = registry();
    assert_eq!(check_in(&mut registry, JOB, "new"), Ok(FRESH));
    registry.returned(FRESH);
    let active = check_in(&mut registry, JOB, "new");
    assert_eq!(active, Err(BootstrapCode::SERVICE_ACTIVE));
    registry.port_died(FRESH);
    let unknown = Err(BootstrapCode::UNKNOWN_SERVICE);
    assert_eq!(look_up(&registry, named("new")), unknown);
}

#[test]
fn s65_registering_nothing_takes_an_inactive_declaration_back() {
    let mut registry = registry();
    for offer in [Offer::Port(FRESH), Offer::Dead] {
        let result = register(&mut registry, JOB, named("echo"), offer);
        assert_eq!(
            result,
            Err(BootstrapCode::NOT_PRIVILEGED),
            "to be checked in"
        );
    }
    let nothing = Offer::Nothing;
    let closed = register(&mut registry, JOB, named("echo"), nothing);
    assert_eq!(closed, Ok(Some(PORT)));
    let unknown = Err(BootstrapCode::UNKNOWN_SERVICE);
    assert_eq!(look_up(&registry, named("echo")), unknown);
    assert_eq!(
        register(&mut registry, JOB, named("echo"), nothing),
        Ok(None)
    );
    register(&mut registry, CLIENT, named("echo"), Offer::Port(FRESH)).expect("free");
}

#[test]
fn s65_an_active_name_is_not_taken_back() {
    let mut registry = registry();
    check_in(&mut registry, JOB, "echo").expect("inactive");
    let result = register(&mut registry, JOB, named("echo"), Offer::Nothing);
    assert_eq!(result, Err(BootstrapCode::SERVICE_ACTIVE));
}

#[test]
fn s66_a_namespace_shadows_the_one_around_it_and_goes_with_its_requestor() {
    let mut registry = registry();
    let (outer, inner) = (Namespace(1), Namespace(2));
    registry.subset(None, outer, REQUESTOR).expect("outer");
    let requestor = Offer::Port(PortKey(71));
    registry
        .subset(Some(outer), inner, requestor)
        .expect("inner");
    assert_eq!(look_up(&registry, within(2, "echo")), Ok(PORT));

    let offer = Offer::Port(PortKey(20));
    register(&mut registry, CLIENT, within(1, "echo"), offer).expect("shadows");
    register(
        &mut registry,
        CLIENT,
        within(2, "own"),
        Offer::Port(PortKey(21)),
    )
    .expect("free");
    assert_eq!(look_up(&registry, within(2, "echo")), Ok(PortKey(20)));
    assert_eq!(look_up(&registry, named("echo")), Ok(PORT));
    let unknown = Err(BootstrapCode::UNKNOWN_SERVICE);
    assert_eq!(look_up(&registry, within(1, "own")), unknown);

    let mut gone = registry.port_died(PortKey(70));
    gone.sort();
    assert_eq!(gone, [PortKey(20), PortKey(21)]);
    for namespace in [1, 2] {
        assert_eq!(look_up(&registry, within(namespace, "echo")), unknown);
        let key = within(namespace, "late");
        let late = register(&mut registry, CLIENT, key, Offer::Port(FRESH));
        assert_eq!(late, Err(BootstrapCode::UNKNOWN_SERVICE));
    }
    assert_eq!(registry.port_died(PortKey(71)), []);
}

#[test]
fn s66_a_namespace_has_a_parent_and_a_living_requestor() {
    let mut registry = registry();
    let (outer, inner) = (Namespace(1), Namespace(2));
    for requestor in [Offer::Nothing, Offer::Dead] {
        let refused = registry.subset(None, outer, requestor);
        assert_eq!(refused, Err(BootstrapCode::NOT_PRIVILEGED));
    }
    let orphan = registry.subset(Some(outer), inner, REQUESTOR);
    assert_eq!(orphan, Err(BootstrapCode::UNKNOWN_SERVICE));
    registry.subset(None, outer, REQUESTOR).expect("outer");
    registry
        .subset(Some(outer), inner, REQUESTOR)
        .expect("inner");
    assert_eq!(registry.parent(inner), Ok(Some(outer)));
    assert_eq!(registry.parent(outer), Ok(None));
    registry.port_died(PortKey(70));
    let gone = registry.parent(outer);
    assert_eq!(gone, Err(BootstrapCode::UNKNOWN_SERVICE));
}

#[test]
fn s66_namespaces_have_a_limited_depth_and_number() {
    let mut registry = registry();
    registry.subset(None, Namespace(1), REQUESTOR).expect("one");
    for depth in 1..MAX_DEPTH as u64 {
        let (parent, child) = (Some(Namespace(depth)), Namespace(depth + 1));
        registry.subset(parent, child, REQUESTOR).expect("deeper");
    }
    let deepest = Some(Namespace(MAX_DEPTH as u64));
    let deeper = registry.subset(deepest, Namespace(1000), REQUESTOR);
    assert_eq!(deeper, Err(BootstrapCode::NO_MEMORY));
    for more in MAX_DEPTH..MAX_SUBSETS {
        let namespace = Namespace(more as u64 + 1000);
        registry.subset(None, namespace, REQUESTOR).expect("wider");
    }
    let wider = registry.subset(None, Namespace(9999), REQUESTOR);
    assert_eq!(wider, Err(BootstrapCode::NO_MEMORY));
    registry.port_died(PortKey(70));
    registry
        .subset(None, Namespace(9999), REQUESTOR)
        .expect("all are gone");
}

#[test]
fn s68_asking_for_the_status_leaves_a_service_as_it_is() {
    let mut registry = registry();
    for _ in 0..2 {
        let status = registry.status(named("echo"), Sandbox::Allows);
        assert_eq!(status, Ok(ServiceStatus::OnDemand));
    }
    check_in(&mut registry, JOB, "echo").expect("still inactive");
    let status = registry.status(named("echo"), Sandbox::Allows);
    assert_eq!(status, Ok(ServiceStatus::Active));
}

#[test]
fn the_list_shows_the_instance_that_runs() {
    let mut registry = registry();
    let pid = |registry: &Registry| registry.list(|_, _| true)[0].pid;
    assert_eq!(pid(&registry), 0);
    registry.job_started(JOB, 300);
    assert_eq!(pid(&registry), 300);
    registry.job_exited(JOB);
    assert_eq!(pid(&registry), 0);
}

#[test]
fn the_sandbox_is_not_asked_for_a_jobs_own_declaration() {
    let mut registry = registry();
    let denied = Sandbox::Denies;
    let result = registry.check_in(JOB, named("new"), false, FRESH, denied);
    assert_eq!(result, Err(BootstrapCode::NOT_PRIVILEGED));
    let result = registry.check_in(OTHER, named("echo"), false, FRESH, denied);
    assert_eq!(result, Err(BootstrapCode::NOT_PRIVILEGED));
    let result = registry.check_in(JOB, named("echo"), false, FRESH, denied);
    assert_eq!(result, Ok(PORT));
}

#[test]
fn a_name_that_is_taken_is_not_declared() {
    let mut registry = registry();
    register(&mut registry, CLIENT, named("taken"), Offer::Port(FRESH)).expect("free");
    for text in ["taken", "echo"] {
        let (_, name) = named(text);
        let declared = registry.declare(OTHER, name, Visibility::Always, FRESH);
        assert_eq!(declared, Err(BootstrapCode::NAME_IN_USE));
    }
    assert_eq!(registry.owner(named("taken")), Some(CLIENT.into()));
    assert_eq!(registry.owner(named("hidden")), Some(JOB.into()));
}
