//! A job is the same in every format, and no file makes its reader panic.

use std::path::Path;

use portolan_sandbox::document::{Document, Format, Item, Value};
use portoland::job::{Job, Reading};
use proptest::prelude::*;

const FORMATS: [Format; 3] = [Format::Toml, Format::Xml, Format::Binary];

fn item(key: &str, value: Value) -> Item {
    let (key, offset) = (key.to_owned(), None);
    Item { key, offset, value }
}

fn document(items: Vec<Item>) -> Document {
    let empty = Document::parse(b"").expect("an empty file");
    Document { items, ..empty }
}

fn read(bytes: &[u8]) -> (Job, Vec<String>) {
    let reading = Reading::of(bytes);
    let warnings = reading.warnings.iter().map(ToString::to_string);
    let mut warnings: Vec<_> = warnings.collect();
    warnings.sort();
    let errors = reading.errors;
    let job = reading.job.unwrap_or_else(|| panic!("{errors:?}"));
    (job, warnings)
}

/// What serde makes of a job, in each format.
fn serialized(job: &Job) -> [Vec<u8>; 3] {
    let toml = toml::to_string(job).expect("TOML").into_bytes();
    let (mut xml, mut binary) = (Vec::new(), Vec::new());
    plist::to_writer_xml(&mut xml, job).expect("XML");
    plist::to_writer_binary(&mut binary, job).expect("binary");
    [toml, xml, binary]
}

type Values = BoxedStrategy<Value>;

fn flags() -> Values {
    any::<bool>().prop_map(Value::Boolean).boxed()
}

fn numbers(min: i64, max: i64) -> Values {
    let numbers = (min..=max).prop_map(|number| Value::Integer(number.into()));
    numbers.boxed()
}

fn texts() -> Values {
    "[ -~äß€\t\n]{0,12}".prop_map(Value::String).boxed()
}

fn paths() -> Values {
    "/[ -~ä]{0,12}".prop_map(Value::String).boxed()
}

fn labels() -> Values {
    "[a-z.]{1,12}".prop_map(Value::String).boxed()
}

fn words(words: &'static [&'static str]) -> Values {
    prop::sample::select(words)
        .prop_map(|word| Value::String(word.to_owned()))
        .boxed()
}

fn arrays(values: Values) -> Values {
    prop::collection::vec(values, 0..4)
        .prop_map(Value::Array)
        .boxed()
}

fn maps(keys: &'static str, values: Values) -> Values {
    let entries = prop::collection::btree_map(keys, values, 0..4);
    let maps = entries.prop_map(|entries| {
        let items = entries.into_iter();
        Value::Dictionary(items.map(|(key, value)| item(&key, value)).collect())
    });
    maps.boxed()
}

/// Each of the keys, or not.
fn some_of(keys: Vec<(&'static str, Values)>) -> BoxedStrategy<Vec<Item>> {
    let items: Vec<_> = keys
        .into_iter()
        .map(|(key, values)| prop::option::of(values.prop_map(move |value| item(key, value))))
        .collect();
    items
        .prop_map(|items| items.into_iter().flatten().collect())
        .boxed()
}

fn tables(keys: Vec<(&'static str, Values)>) -> Values {
    some_of(keys).prop_map(Value::Dictionary).boxed()
}

fn limits(min: i64, max: i64) -> Values {
    let keys = [
        "Core",
        "CPU",
        "Data",
        "FileSize",
        "MemoryLock",
        "NumberOfFiles",
        "NumberOfProcesses",
        "Stack",
        "ResidentSetSize",
    ];
    tables(keys.map(|key| (key, numbers(min, max))).to_vec())
}

fn keep_alive() -> Values {
    let conditions = tables(vec![
        ("SuccessfulExit", flags()),
        ("Crashed", flags()),
        ("PathState", maps("/[a-zä ]{0,8}", flags())),
        ("OtherJobEnabled", maps("[a-z.]{1,8}", flags())),
        ("OtherJobActive", maps("[a-z.]{1,8}", flags())),
        ("AfterInitialDemand", flags()),
        ("NetworkState", flags()),
    ]);
    prop_oneof![flags(), conditions].boxed()
}

fn intervals() -> Values {
    let interval = tables(vec![
        ("Minute", numbers(0, 59)),
        ("Hour", numbers(0, 23)),
        ("Day", numbers(1, 31)),
        ("Weekday", numbers(0, 7)),
        ("Month", numbers(1, 12)),
    ]);
    prop_oneof![interval.clone(), arrays(interval)].boxed()
}

fn mach_services() -> Values {
    let service = tables(vec![
        ("ResetAtClose", flags()),
        ("HideUntilCheckIn", flags()),
        ("DrainMessagesOnCrash", words(&["One", "All"])),
        ("HostSpecialPort", numbers(1, 20)),
    ]);
    maps("[ -~ä]{1,12}", prop_oneof![flags(), service].boxed())
}

fn sockets() -> Values {
    let with = |key: &'static str, address: Values, others: Vec<(&'static str, Values)>| {
        (some_of(others), address).prop_map(move |(mut items, address)| {
            items.push(item(key, address));
            Value::Dictionary(items)
        })
    };
    let unix = with(
        "SockPathName",
        paths(),
        vec![
            ("SockType", words(&["stream", "DGRAM", "seqpacket"])),
            ("SockPassive", flags()),
            ("SockPathMode", numbers(0, 0o777)),
            ("SockNodeName", texts()),
        ],
    );
    let inet = with(
        "SockServiceName",
        prop_oneof![labels(), numbers(0, 65535)].boxed(),
        vec![
            ("SockType", words(&["stream", "dgram"])),
            ("SockNodeName", texts()),
            ("SockFamily", words(&["IPv4", "IPv6", "IPv4v6"])),
            ("Bonjour", flags()),
        ],
    );
    let socket = prop_oneof![unix, inet].boxed();
    let some = prop_oneof![socket.clone(), arrays(socket)].boxed();
    maps("[a-zA-Z:. ]{1,8}", some)
}

fn entitlements() -> Values {
    tables(vec![
        ("com.apple.security.app-sandbox", flags()),
        ("com.apple.security.network.client", flags()),
        (
            "com.apple.security.application-groups",
            arrays(words(&["group.a", "group.org.example"])),
        ),
        (
            "com.apple.security.temporary-exception.mach-lookup.global-name",
            arrays(labels()),
        ),
        (
            "com.apple.security.temporary-exception.mach-register.local-name",
            arrays(labels()),
        ),
    ])
}

fn jobs() -> impl Strategy<Value = Vec<Item>> {
    let keys = vec![
        ("ProgramArguments", arrays(texts())),
        ("Disabled", flags()),
        ("WorkingDirectory", paths()),
        (
            "EnvironmentVariables",
            maps("[A-Za-z_.][A-Z0-9_]{0,6}", texts()),
        ),
        ("UserName", labels()),
        ("GroupName", labels()),
        (
            "Umask",
            prop_oneof![numbers(0, 0o777), words(&["022", "0x12", "63"])].boxed(),
        ),
        ("Nice", numbers(-20, 20)),
        (
            "ProcessType",
            words(&["Background", "Standard", "Adaptive", "Interactive"]),
        ),
        ("SoftResourceLimits", limits(0, 1000)),
        ("HardResourceLimits", limits(1000, i64::MAX)),
        ("StandardInPath", paths()),
        ("StandardOutPath", paths()),
        ("StandardErrorPath", paths()),
        ("RunAtLoad", flags()),
        ("KeepAlive", keep_alive()),
        ("OnDemand", flags()),
        ("StartInterval", numbers(1, u32::MAX.into())),
        ("StartCalendarInterval", intervals()),
        ("WatchPaths", arrays(paths())),
        ("QueueDirectories", arrays(paths())),
        ("ThrottleInterval", numbers(0, u32::MAX.into())),
        ("ExitTimeOut", numbers(0, u32::MAX.into())),
        ("TimeOut", numbers(0, u32::MAX.into())),
        ("LaunchOnlyOnce", flags()),
        ("AbandonProcessGroup", flags()),
        ("MachServices", mach_services()),
        ("Sockets", sockets()),
        ("Entitlements", entitlements()),
        ("ReportRefusals", flags()),
        ("After", arrays(labels())),
        ("Requires", arrays(labels())),
        ("LimitLoadToSessionType", arrays(texts())),
        ("LaunchEvents", maps("[a-z.]{1,6}", arrays(flags()))),
    ];
    (some_of(keys), paths()).prop_map(|(mut items, program)| {
        let label = Value::String("Org.Example.Job".to_owned());
        items.push(item("Label", label));
        items.push(item("Program", program));
        items
    })
}

/// Keys of a job and of what is in it, with values that they cannot have.
fn nonsense() -> impl Strategy<Value = Vec<Item>> {
    const KEYS: &[&str] = &[
        "Label",
        "Program",
        "Umask",
        "KeepAlive",
        "Crashed",
        "PathState",
        "StartCalendarInterval",
        "Minute",
        "MachServices",
        "ResetAtClose",
        "Sockets",
        "SockPathName",
        "SockServiceName",
        "SockFamily",
        "SoftResourceLimits",
        "HardResourceLimits",
        "CPU",
        "Entitlements",
        "com.apple.security.app-sandbox",
        "EnvironmentVariables",
        "ProgramArguments",
        "After",
        "OnDemand",
        "x",
    ];
    let leaf = prop_oneof![
        flags(),
        numbers(i64::MIN, i64::MAX),
        texts(),
        any::<f64>().prop_map(Value::Real)
    ];
    let values = leaf.prop_recursive(4, 32, 6, |inner| {
        let entries = (prop::sample::select(KEYS), inner.clone());
        let entries = entries.prop_map(|(key, value)| item(key, value));
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::Array),
            prop::collection::vec(entries, 0..6).prop_map(Value::Dictionary),
        ]
    });
    let entries = (prop::sample::select(KEYS), values);
    let entries = entries.prop_map(|(key, value)| item(key, value));
    prop::collection::vec(entries, 0..8)
}

proptest! {
    #[test]
    fn a_job_is_the_same_in_every_format(items in jobs()) {
        let document = document(items);
        let files = FORMATS.map(|format| document.write(format).expect("write"));
        let first = read(&files[0]);
        for file in &files {
            prop_assert_eq!(&read(file), &first);
            let read = Document::parse(file).expect("own writing");
            let (read, items) = (Value::Dictionary(read.items), document.items.clone());
            prop_assert_eq!(read, Value::Dictionary(items));
        }
    }

    /// The keys that serde writes are those that are read, none is left out, and there is nothing
    /// to warn of.
    #[test]
    fn a_job_is_serialized_as_what_it_was_read_from(items in jobs()) {
        let (job, _) = read(&document(items).write(Format::Binary).expect("write"));
        for file in serialized(&job) {
            let (again, mut warnings) = read(&file);
            prop_assert_eq!(&again, &job);
            // That is said of the job, however it is written.
            warnings.retain(|one| !one.contains("ReportRefusals"));
            prop_assert_eq!(warnings, Vec::<String>::new());
        }
    }

    #[test]
    fn nonsense_never_panics(items in nonsense()) {
        for format in FORMATS {
            if let Ok(file) = document(items.clone()).write(format) {
                let reading = Reading::of(&file);
                prop_assert_eq!(reading.job.is_some(), reading.errors.is_empty());
            }
        }
    }

    #[test]
    fn broken_files_never_panic(
        name in prop::sample::select(&["cups.plist", "cups.binary.plist", "syslogd.binary.plist"]),
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 0..4),
    ) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jobs");
        let mut file = std::fs::read(folder.join(name)).expect("file");
        let at = at.index(file.len());
        let end = (at + bytes.len()).min(file.len());
        file.splice(at..end, bytes);
        let reading = Reading::of(&file);
        prop_assert_eq!(reading.job.is_some(), reading.errors.is_empty());
    }
}
