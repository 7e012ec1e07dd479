//! The journal against a table in memory, and against damage.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use portoland::journal::{
    Entries, Journal, JournalError, Key, MAX_BYTES, MAX_DESCRIPTORS, PutError, memory, replay,
};
use proptest::prelude::*;

type Table = BTreeMap<Key, (Vec<u8>, Vec<u32>)>;

/// A journal and a second descriptor of its memory, which a compacted journal leaves behind.
fn journal() -> (Journal, File) {
    let memory = memory().expect("memory");
    let same = memory.try_clone().expect("dup");
    let journal = Journal::resume(memory, &Entries::default()).expect("resume");
    (journal, File::from(same))
}

fn table(entries: &Entries) -> Table {
    let rows = entries.iter();
    rows.map(|(key, entry)| (key, (entry.bytes.to_vec(), entry.descriptors)))
        .collect()
}

fn key(id: u64) -> Key {
    Key { kind: 1, id }
}

/// What a journal would be with these bytes.
fn replay_bytes(bytes: &[u8]) -> Result<Table, JournalError> {
    let memory = File::from(memory().expect("memory"));
    memory.write_all_at(bytes, 0).expect("write");
    replay(&memory).map(|entries| table(&entries))
}

fn bytes_of(journal: &Journal) -> Vec<u8> {
    let file = File::from(journal.as_fd().try_clone_to_owned().expect("dup"));
    let length = file.metadata().expect("fstat").len();
    let mut bytes = vec![0; usize::try_from(length).expect("short")];
    file.read_exact_at(&mut bytes, 0).expect("read");
    bytes
}

#[derive(Clone, Debug)]
enum Step {
    Put(Key, Vec<u8>, usize),
    Remove(Key),
    Compact,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || (0_u16..3, 0_u64..6).prop_map(|(kind, id)| Key { kind, id });
    let bytes = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..80),
        1 => (60_000_usize..70_000).prop_map(|length| vec![7; length]),
    ];
    let step = prop_oneof![
        8 => (key(), bytes, 0_usize..3).prop_map(|(key, bytes, fds)| Step::Put(key, bytes, fds)),
        4 => key().prop_map(Step::Remove),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 0..60)
}

/// The journal as the next server finds it.
fn reopen(journal: Journal) -> Journal {
    let memory = journal.into_memory();
    let entries = replay(&memory).expect("replay");
    Journal::resume(memory, &entries).expect("resume")
}

fn carry_out(journal: Journal, steps: &[Step], fds: &[OwnedFd]) -> (Journal, Vec<Table>) {
    let (mut journal, mut model, mut history) = (journal, Table::new(), vec![Table::new()]);
    for step in steps {
        match step {
            Step::Put(key, bytes, count) => {
                let fds: Vec<_> = fds[..*count].iter().map(AsFd::as_fd).collect();
                journal.put(*key, bytes, &fds).expect("put");
                let numbers = fds.iter().map(|fd| fd.as_raw_fd().cast_unsigned());
                model.insert(*key, (bytes.clone(), numbers.collect()));
            }
            Step::Remove(key) => {
                let removed = journal.remove(*key).expect("remove");
                assert_eq!(removed, model.remove(key).is_some());
            }
            Step::Compact => journal.compact().expect("compact"),
            Step::Reopen => journal = reopen(journal),
        }
        assert_eq!(table(&replay(&journal).expect("replay")), model);
        history.push(model.clone());
    }
    (journal, history)
}

fn descriptors() -> Vec<OwnedFd> {
    (0..2)
        .map(|_| File::open("/dev/null").expect("/dev/null").into())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_changes_are_replayed(steps in steps()) {
        let (journal, memory) = journal();
        let (journal, _) = carry_out(journal, &steps, &descriptors());
        drop(journal.into_memory());
        drop(memory);
    }

    #[test]
    fn any_truncation_is_a_state_it_was_in(steps in steps(), cut in any::<prop::sample::Index>()) {
        let changes: Vec<_> = steps
            .into_iter()
            .filter(|step| matches!(step, Step::Put(_, bytes, _) if bytes.len() < 100) || matches!(step, Step::Remove(_)))
            .collect();
        let (journal, _memory) = journal();
        let (journal, history) = carry_out(journal, &changes, &descriptors());
        let bytes = bytes_of(&journal);
        drop(journal.into_memory());
        let cut = cut.index(bytes.len() + 1);
        let found = replay_bytes(&bytes[..cut]).expect("a beginning is no damage");
        prop_assert!(history.contains(&found));
        prop_assert!(cut < bytes.len() || found == *history.last().expect("the first"));
    }

    #[test]
    fn any_changed_byte_is_noticed_or_takes_the_last_change_back(
        ids in prop::collection::vec(0_u64..4, 1..8),
        at in any::<prop::sample::Index>(),
        change in 1_u8..,
    ) {
        let (mut journal, _memory) = journal();
        let mut before = Table::new();
        for (round, id) in ids.iter().enumerate() {
            before = table(&replay(&journal).expect("replay"));
            journal.put(key(*id), &[round as u8; 20], &[]).expect("put");
        }
        let mut bytes = bytes_of(&journal);
        drop(journal.into_memory());
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        let found = replay_bytes(&bytes);
        match found {
            Err(JournalError::Damaged { offset }) => prop_assert!(offset <= at),
            Ok(found) => prop_assert_eq!(found, before),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        replay_bytes(&bytes).ok();
    }
}

#[test]
fn a_torn_record_is_cut_away_before_the_next_is_written() {
    let (mut journal, memory) = journal();
    journal.put(key(1), b"one", &[]).expect("put");
    journal.put(key(2), &[2; 1000], &[]).expect("put");
    let length = memory.metadata().expect("fstat").len();
    memory.set_len(length - 1).expect("truncate");
    let mut journal = reopen(journal);
    journal.put(key(3), b"three", &[]).expect("put");
    let entries = replay(&journal).expect("replay");
    assert_eq!(entries.keys().collect::<Vec<_>>(), [key(1), key(3)]);
    drop(journal.into_memory());
}

#[test]
fn a_journal_that_is_mostly_dead_is_compacted_in_its_place() {
    let (mut journal, memory) = journal();
    let number = journal.as_fd().as_raw_fd();
    journal.put(key(1), b"stays", &[]).expect("put");
    for round in 0..10_000_u64 {
        journal.put(key(2), &round.to_le_bytes(), &[]).expect("put");
    }
    assert_eq!(journal.as_fd().as_raw_fd(), number);
    let length = bytes_of(&journal).len();
    assert!(length < 80 << 10, "{length} bytes for two entries");
    let old = table(&replay(&memory).expect("the old one is whole as well"));
    assert_eq!(old[&key(1)].0, b"stays");
    let now = table(&replay(&journal).expect("replay"));
    assert_eq!(now[&key(1)].0, b"stays");
    assert_eq!(now[&key(2)].0, 9_999_u64.to_le_bytes());
    drop(journal.into_memory());
}

#[test]
fn what_is_too_large_changes_nothing() {
    let (mut journal, _memory) = journal();
    journal.put(key(1), &vec![1; MAX_BYTES], &[]).expect("put");
    let before = bytes_of(&journal);
    let error = journal
        .put(key(1), &vec![1; MAX_BYTES + 1], &[])
        .expect_err("too long");
    assert!(matches!(error, PutError::TooLong { length } if length == MAX_BYTES + 1));
    let null = File::open("/dev/null").expect("/dev/null");
    let error = journal
        .put(key(1), b"", &vec![null.as_fd(); MAX_DESCRIPTORS + 1])
        .expect_err("too many");
    assert!(matches!(error, PutError::TooManyDescriptors { .. }));
    assert!(bytes_of(&journal) == before);
    drop(journal.into_memory());
}

#[test]
fn a_journal_begins_anew_after_damage() {
    let memory = memory().expect("memory");
    let file = File::from(memory.try_clone().expect("dup"));
    file.write_all_at(&[1; 100], 0).expect("write");
    let error = replay(&memory).expect_err("damaged");
    assert!(matches!(error, JournalError::Damaged { offset: 0 }));
    let mut journal = Journal::resume(memory, &Entries::default()).expect("resume");
    journal.put(key(1), b"one", &[]).expect("put");
    assert_eq!(replay(&file).expect("replay").keys().count(), 1);
    drop(journal.into_memory());
}
