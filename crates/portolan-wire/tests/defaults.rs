//! The file of user defaults against committed bytes, round trips and arbitrary bytes.

mod golden;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use portolan_wire::defaults::{
    Change, Image, ImageError, KeyError, LimitError, MAX_BYTES, MAX_CHANGES, MAX_DEPTH,
    MAX_KEY_BYTES, MAX_VALUES, Value,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

#[test]
fn a_file_has_the_committed_bytes() {
    let half = SystemTime::UNIX_EPOCH + Duration::from_millis(500);
    let list = Value::Array(vec![true.into(), (-2).into(), 0.5.into(), half.into()]);
    let names = BTreeMap::from([("k".to_owned(), vec![1, 2].into())]);
    let mut image = Image::new(0x0102_0304_0506_0708);
    for (key, value) in [
        ("b", Some("gr\u{fc}n".into())),
        ("a", Some(list)),
        ("c", Some(names.into())),
        ("b", None),
    ] {
        assert_eq!(image.set(key, value), Ok(true));
    }
    let (_, bytes) = golden::parse(include_str!("golden/defaults.hex"));
    assert_eq!(image.encode(), Ok(bytes.clone()));
    assert_eq!(Image::decode(&bytes), Ok(image));
}

#[test]
fn keys_are_checked() {
    let mut image = Image::new(1);
    assert_eq!(image.set("", Some(1.into())), Err(KeyError::Empty));
    let long = "x".repeat(MAX_KEY_BYTES + 1);
    let len = long.len();
    assert_eq!(image.set(&long, None), Err(KeyError::TooLong { len }));
    assert_eq!(image.set(&long[1..], Some(1.into())), Ok(true));
}

#[test]
fn what_is_more_than_there_may_be_is_refused() {
    let refused = |value: Value| {
        let mut image = Image::new(1);
        image.set("k", Some(value)).expect("a key");
        image.encode().expect_err("more than there may be")
    };
    let long = refused(vec![0; MAX_BYTES].into());
    assert!(matches!(long, LimitError::TooLong { .. }), "{long}");
    let many = refused(vec![Value::Boolean(true); MAX_VALUES as usize].into());
    assert_eq!(many, LimitError::TooManyValues);
    assert_eq!(refused(nested(MAX_DEPTH + 1)), LimitError::TooDeep);

    let mut image = Image::new(1);
    image.set("k", Some(nested(MAX_DEPTH))).expect("a key");
    let bytes = image.encode().expect("as deep as may be");
    assert_eq!(Image::decode(&bytes), Ok(image));
}

#[test]
fn a_file_cannot_be_deeper_or_more_than_one_that_was_written() {
    let mut image = Image::new(1);
    image.set("k", Some(nested(0))).expect("a key");
    let bytes = image.encode().expect("small");
    let (before, after) = bytes.split_at(31);
    let array = [7, 1, 0, 0, 0].repeat(1_000_000 / 5);
    let deep = [before, &array, after].concat();
    assert_eq!(Image::decode(&deep), Err(ImageError::TooDeep));

    let count = MAX_VALUES + 1;
    let many = [&[7][..], &count.to_le_bytes(), &vec![0; count as usize]].concat();
    let many = [before, &many, after].concat();
    assert_eq!(Image::decode(&many), Err(ImageError::TooManyValues));
    assert_eq!(
        Image::decode(&vec![0; MAX_BYTES + 1]),
        Err(ImageError::TooLong)
    );
}

#[test]
fn changes_are_told_in_order_as_long_as_they_are_kept() {
    let mut image = Image::new(1);
    image.set("n", Some(0.into())).expect("a key");
    let earlier = image.clone();
    assert_eq!(image.changes_since(&earlier), Some(Vec::new()));
    assert_eq!(image.set("n", Some(0.into())), Ok(false));
    let count = i32::try_from(MAX_CHANGES).expect("small");
    for n in 1..=count {
        image.set("n", Some(n.into())).expect("a key");
    }
    let expected: Vec<_> = (1..=count).map(|n| change("n", Some(n.into()))).collect();
    assert_eq!(image.changes_since(&earlier).as_ref(), Some(&expected));
    let bytes = image.encode().expect("small");
    assert_eq!(
        Image::decode(&bytes).expect("ours").changes_since(&earlier),
        Some(expected)
    );

    image.set("n", None).expect("a key");
    assert_eq!(image.changes_since(&earlier), None);
    assert_eq!(image.difference(&earlier), [change("n", None)]);
    let mut other = Image::new(2);
    assert_eq!(other.changes_since(&image), None);
    for n in 1..=2 {
        other.set("n", Some(n.into())).expect("a key");
    }
    let both = [1, 2].map(|n| change("n", Some(n.into())));
    assert_eq!(
        other.changes_since(&Image::new(1)).as_deref(),
        Some(&both[..])
    );
    let mut successor = Image::new(3);
    for n in 3..=5 {
        successor.set("n", Some(n.into())).expect("a key");
    }
    assert_eq!(successor.changes_since(&other), None);
}

#[test]
fn long_changes_are_not_kept() {
    let mut image = Image::new(1);
    let earlier = image.clone();
    image.set("a", Some(1.into())).expect("a key");
    image
        .set("b", Some(vec![0; 100_000].into()))
        .expect("a key");
    let later = image.clone();
    image.set("c", Some(2.into())).expect("a key");
    let image = Image::decode(&image.encode().expect("small")).expect("ours");
    assert_eq!(
        image.changes_since(&later),
        Some(vec![change("c", Some(2.into()))])
    );
    assert_eq!(image.changes_since(&earlier), None);
    assert_eq!(image.difference(&earlier).len(), 3);
}

proptest! {
    #[test]
    fn what_is_written_is_read(steps in vec(("[a-c]|\\PC{1,20}", proptest::option::of(value())), 0..40)) {
        let mut image = Image::new(7);
        let mut model = BTreeMap::new();
        for (key, value) in steps {
            match value.clone() {
                Some(value) => model.insert(key.clone(), value),
                None => model.remove(&key),
            };
            image.set(&key, value).expect("a key");
        }
        let bytes = image.encode().expect("small");
        let read = Image::decode(&bytes).expect("ours");
        prop_assert_eq!(read.values(), &model);
        prop_assert_eq!(read.encode(), Ok(bytes));
    }

    #[test]
    fn any_bytes_are_one_file_or_none(mut bytes in vec(any::<u8>(), 0..200), whole in any::<bool>()) {
        if whole {
            bytes.splice(..0, *b"PortDef\x01");
        }
        check(&bytes);
    }

    #[test]
    fn a_broken_file_is_another_or_none(
        values in btree_map("[a-z]{1,4}", value(), 1..6),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut image = Image::new(7);
        for (key, value) in values {
            image.set(&key, Some(value)).expect("a key");
        }
        let mut bytes = image.encode().expect("small");
        bytes[at.index(30)] = byte;
        check(&bytes);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        check(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        check(&bytes);
    }
}

/// Nothing panics, and what decodes is encoded to the same bytes.
fn check(bytes: &[u8]) {
    if let Ok(image) = Image::decode(bytes) {
        assert_eq!(image.encode().as_deref(), Ok(bytes));
    }
}

fn change(key: &str, value: Option<Value>) -> Change {
    let key = key.to_owned();
    Change { key, value }
}

/// So many arrays in each other around a number.
fn nested(depth: u32) -> Value {
    (0..depth).fold(1.into(), |value, _| vec![value].into())
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(|bits| f64::from_bits(bits).into()),
        "\\PC{0,12}".prop_map(Value::from),
        vec(any::<u8>(), 0..20).prop_map(Value::from),
        date().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            btree_map("\\PC{0,8}", inner, 0..5).prop_map(Value::from),
        ]
    })
}

/// Of the whole range that a system has.
fn date() -> impl Strategy<Value = SystemTime> {
    (any::<i64>(), 0..1_000_000_000u64).prop_map(|(seconds, nanos)| {
        let distance = Duration::from_secs(seconds.unsigned_abs());
        let whole = match seconds {
            0.. => SystemTime::UNIX_EPOCH + distance,
            _ => SystemTime::UNIX_EPOCH - distance,
        };
        whole + Duration::from_nanos(nanos)
    })
}
