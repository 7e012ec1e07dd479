//! The table of memory and semaphores by itself: the rules, and a long random walk against a model
//! that is too simple to be wrong.

use std::collections::BTreeMap;

use portolan_wire::code::BootstrapCode;
use portolan_wire::object::{Creation, ObjectKind, ObjectName, semaphore};
use portoland::objects::{Level, Named, ObjectError, ObjectKey, Objects, PAGE};
use portoland::registry::Sandbox;
use proptest::prelude::*;

const ALLOWS: Sandbox = Sandbox::Allows;

fn name(text: &str) -> ObjectName {
    text.parse().expect("name")
}

fn memory(user: u32, text: &str) -> Named {
    Named {
        user,
        kind: ObjectKind::Memory,
        name: name(text),
    }
}

fn new(value: u64) -> Option<Creation> {
    let exclusive = true;
    Some(Creation { exclusive, value })
}

fn add(objects: &mut Objects, named: Named, key: u64, size: u64) -> Result<(), ObjectError> {
    objects
        .open(named, new(size), ObjectKey(key), ALLOWS)
        .map(drop)
}

#[test]
fn a_name_is_there_until_it_is_unlinked() {
    let mut objects = Objects::new(1 << 30);
    let (x, fresh) = (memory(1, "group.a/x"), ObjectKey(2));
    let open = |objects: &mut Objects, create| objects.open(x.clone(), create, fresh, ALLOWS);
    assert_eq!(open(&mut objects, None), Err(ObjectError::Missing));
    add(&mut objects, x.clone(), 1, 10).expect("new");
    assert_eq!(open(&mut objects, None), Ok(ObjectKey(1)));
    let or_there = Creation {
        exclusive: false,
        value: 99,
    };
    assert_eq!(open(&mut objects, Some(or_there)), Ok(ObjectKey(1)));
    assert_eq!(open(&mut objects, new(10)), Err(ObjectError::Exists));
    assert_eq!(
        objects.restore(x.clone(), fresh, 1),
        Err(ObjectError::Exists)
    );
    assert_eq!(objects.unlink(&x, ALLOWS), Ok(ObjectKey(1)));
    assert_eq!(objects.unlink(&x, ALLOWS), Err(ObjectError::Missing));
    assert_eq!(open(&mut objects, Some(or_there)), Ok(fresh));
}

#[test]
fn a_refusal_comes_before_the_table() {
    let mut objects = Objects::new(1 << 30);
    add(&mut objects, memory(1, "group.a/taken"), 1, 10).expect("new");
    for text in ["group.a/taken", "group.a/missing"] {
        for create in [None, new(0), new(1)] {
            let opened = objects.open(memory(1, text), create, ObjectKey(2), Sandbox::Denies);
            assert_eq!(opened, Err(ObjectError::Denied));
        }
        let unlinked = objects.unlink(&memory(1, text), Sandbox::Denies);
        assert_eq!(unlinked, Err(ObjectError::Denied));
    }
    assert_eq!(ObjectError::Denied.code(), BootstrapCode::NOT_PRIVILEGED);
}

#[test]
fn kinds_and_users_have_names_of_their_own() {
    let mut objects = Objects::new(1 << 30);
    let semaphore = Named {
        kind: ObjectKind::Semaphore,
        ..memory(1, "group.a/x")
    };
    add(&mut objects, memory(1, "group.a/x"), 1, 10).expect("new");
    add(&mut objects, memory(2, "group.a/x"), 2, 20).expect("another user's");
    add(&mut objects, semaphore, 3, 0).expect("another kind");
    add(&mut objects, memory(1, "group.a/y"), 4, 40).expect("new");
    let list = |user, kind, after: Option<&str>| -> Vec<_> {
        let after = after.map(name);
        let list = objects.list(user, kind, after, |name| name.group() == "group.a");
        list.map(|info| (info.name.rest().to_owned(), info.size))
            .collect()
    };
    let memory = ObjectKind::Memory;
    assert_eq!(list(1, memory, None), [("x".into(), 10), ("y".into(), 40)]);
    assert_eq!(list(1, memory, Some("group.a/x")), [("y".into(), 40)]);
    assert_eq!(list(2, memory, None), [("x".into(), 20)]);
    assert_eq!(list(1, ObjectKind::Semaphore, None), [("x".into(), 0)]);
    assert_eq!(objects.list(1, memory, None, |_| false).count(), 0);
}

#[test]
fn values_have_bounds() {
    let mut objects = Objects::new(1 << 30);
    let added = add(&mut objects, memory(1, "group.a/x"), 1, 0);
    assert_eq!(added, Err(ObjectError::Empty));
    let semaphore = Named {
        kind: ObjectKind::Semaphore,
        ..memory(1, "group.a/x")
    };
    let max = u64::from(semaphore::MAX_VALUE);
    let added = add(&mut objects, semaphore.clone(), 1, max + 1);
    assert_eq!(added, Err(ObjectError::Value));
    add(&mut objects, semaphore, 1, max).expect("new");
}

#[test]
fn each_level_has_a_limit_of_objects() {
    let mut objects = Objects::new(u64::MAX);
    let mut key = 0;
    let mut fill = |user, group| {
        for at in 0.. {
            key += 1;
            let named = memory(user, &format!("group.{group}/{at}"));
            match add(&mut objects, named, key, 1) {
                Ok(()) => {}
                Err(ObjectError::TooMany { level }) => return (level, at),
                Err(other) => panic!("{other}"),
            }
        }
        panic!("there is no end")
    };
    let groups = (0..6).flat_map(|user| (0..5).map(move |group| (user, group)));
    let refused: Vec<_> = groups.map(|(user, group)| fill(user, group)).collect();
    let of_user = [&[(Level::Group, 1024); 4][..], &[(Level::User, 0)]].concat();
    let expected = [of_user.repeat(4), vec![(Level::Server, 0); 10]].concat();
    assert_eq!(refused, expected);
    // What is unlinked makes room.
    objects
        .unlink(&memory(0, "group.0/7"), ALLOWS)
        .expect("it is there");
    add(&mut objects, memory(5, "group.0/7"), 0, 1).expect("room");
}

#[test]
fn bytes_are_counted_in_pages_and_never_overflow() {
    let mut objects = Objects::new(8 * PAGE);
    add(&mut objects, memory(1, "group.a/x"), 1, 1).expect("a page");
    add(&mut objects, memory(1, "group.a/y"), 2, PAGE).expect("the group's second");
    let max = 2 * PAGE;
    for size in [1, u64::MAX, u64::MAX - PAGE] {
        let added = add(&mut objects, memory(1, "group.a/z"), 3, size);
        let level = Level::Group;
        assert_eq!(added, Err(ObjectError::TooLarge { level, max }));
    }
    add(&mut objects, memory(1, "group.b/x"), 4, 2 * PAGE).expect("another group");
    let added = add(&mut objects, memory(1, "group.c/x"), 5, 1);
    let (level, max) = (Level::User, 4 * PAGE);
    assert_eq!(added, Err(ObjectError::TooLarge { level, max }));
    // What was there before stays, whatever the limits.
    let restored = objects.restore(memory(1, "group.c/x"), ObjectKey(6), PAGE);
    assert_eq!(restored, Ok(()));
}

#[derive(Clone, Debug)]
enum Step {
    Open(Named, Option<Creation>),
    Unlink(Named),
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop::sample::select(vec![ObjectKind::Memory, ObjectKind::Semaphore]);
    let text = prop::sample::select(vec!["group.a/x", "group.a/y", "group.b/x", "group.b/y"]);
    let named = (0..2u32, kind, text).prop_map(|(user, kind, text)| Named {
        user,
        kind,
        name: name(text),
    });
    let create = (any::<bool>(), 0..3 * PAGE);
    let create = create.prop_map(|(exclusive, value)| Creation { exclusive, value });
    let open = (named.clone(), prop::option::of(create));
    prop_oneof![
        2 => open.prop_map(|(named, create)| Step::Open(named, create)),
        1 => named.prop_map(Step::Unlink),
    ]
}

type Model = BTreeMap<Named, (ObjectKey, u64)>;

fn bytes(model: &Model, of: impl Fn(&Named) -> bool) -> u64 {
    let own = model.iter().filter(|(named, _)| of(named));
    own.map(|(_, (_, size))| size.div_ceil(PAGE).max(1) * PAGE)
        .sum()
}

fn model_open(
    model: &mut Model,
    capacity: u64,
    (named, create): (Named, Option<Creation>),
    fresh: ObjectKey,
) -> Result<ObjectKey, ObjectError> {
    if let Some((key, _)) = model.get(&named) {
        let exclusive = create.is_some_and(|creation| creation.exclusive);
        return if exclusive {
            Err(ObjectError::Exists)
        } else {
            Ok(*key)
        };
    }
    let value = create.ok_or(ObjectError::Missing)?.value;
    let size = match named.kind {
        ObjectKind::Semaphore => 0,
        _ if value == 0 => return Err(ObjectError::Empty),
        _ => value,
    };
    model.insert(named.clone(), (fresh, size));
    let group =
        |other: &Named| other.user == named.user && other.name.group() == named.name.group();
    let after = [
        (Level::Group, bytes(model, group), capacity / 4),
        (
            Level::User,
            bytes(model, |other| other.user == named.user),
            capacity / 2,
        ),
        (Level::Server, bytes(model, |_| true), capacity),
    ];
    match after.into_iter().find(|(_, bytes, max)| bytes > max) {
        None => Ok(fresh),
        Some((level, _, max)) => {
            model.remove(&named);
            Err(ObjectError::TooLarge { level, max })
        }
    }
}

proptest! {
    #[test]
    fn a_random_walk_is_what_the_model_says(steps in prop::collection::vec(step(), 0..200)) {
        let capacity = 12 * PAGE;
        let mut objects = Objects::new(capacity);
        let mut model = Model::new();
        for (step, key) in steps.into_iter().zip(1..) {
            let fresh = ObjectKey(key);
            match step {
                Step::Open(named, create) => {
                    let opened = objects.open(named.clone(), create, fresh, ALLOWS);
                    let expected = model_open(&mut model, capacity, (named, create), fresh);
                    prop_assert_eq!(opened, expected);
                }
                Step::Unlink(named) => {
                    let expected = model.remove(&named).map(|(key, _)| key);
                    prop_assert_eq!(objects.unlink(&named, ALLOWS), expected.ok_or(ObjectError::Missing));
                }
            }
        }
        for user in 0..2 {
            let listed: Vec<_> = objects.list(user, ObjectKind::Memory, None, |_| true).collect();
            let own = model.iter().filter(|(named, _)| named.user == user && named.kind == ObjectKind::Memory);
            let expected: Vec<_> = own.map(|(named, (_, size))| (named.name.clone(), *size)).collect();
            let listed: Vec<_> = listed.into_iter().map(|info| (info.name, info.size)).collect();
            prop_assert_eq!(listed, expected);
        }
    }
}
