//! A document into a job.

use std::collections::BTreeMap;

use portolan_sandbox::document::{Document, Format, Item, Value};
use portolan_sandbox::profile::{Isolation, Tier};
use portolan_sandbox::{Entitlements, Ineffective};
use portolan_wire::label::JobLabel;

use super::finding::{Finding, JobError, Log, Place, Warning};
use super::keys::{FromValue, Keys, number, word, wrong_type};
use super::{
    CalendarInterval, Conditions, Drain, Job, KeepAlive, MachService, ProcessType, Reading,
    ResourceLimits, Socket, SocketAddress, SocketFamily, SocketType, known,
};

const DEFAULT_EXIT_TIME_OUT: u32 = 20;
const SECONDS: (i128, i128) = (0, u32::MAX as i128);
const MODES: (i128, i128) = (0, 0o777);

pub(super) fn read(bytes: &[u8]) -> Reading {
    let document = match Document::parse(bytes) {
        Ok(document) => document,
        Err(error) => return no_document(error.into()),
    };
    let mut log = Log::new(&document.source);
    let job = job(&document.items, &mut log);
    let (errors, warnings) = log.finish();
    Reading {
        job: job.filter(|_| errors.is_empty()),
        document: Some(document),
        errors,
        warnings,
    }
}

fn no_document(what: JobError) -> Reading {
    let at = match &what {
        JobError::Document(error) => error.position(),
        _ => None,
    };
    let key = String::new();
    Reading {
        document: None,
        job: None,
        errors: vec![Finding { at, key, what }],
        warnings: Vec::new(),
    }
}

fn job(items: &[Item], log: &mut Log<'_>) -> Option<Job> {
    let top = Place::default();
    let mut keys = Keys::new(items, &top, log);
    let job = fields(&mut keys);
    keys.finish(&known::JOB);
    let job = job?;
    check(&job, items, log);
    Some(job)
}

fn fields(keys: &mut Keys<'_, '_, '_>) -> Option<Job> {
    let label = label(keys);
    Some(Job {
        disabled: keys.get("Disabled").unwrap_or(false),
        program: keys.get("Program"),
        program_arguments: keys.get("ProgramArguments").unwrap_or_default(),
        working_directory: keys.get("WorkingDirectory"),
        environment_variables: keys.get("EnvironmentVariables").unwrap_or_default(),
        user_name: keys.get("UserName"),
        group_name: keys.get("GroupName"),
        umask: keys.get("Umask").map(|Mode(umask)| umask),
        nice: keys.number("Nice", (-20, 20)),
        process_type: keys.word("ProcessType", PROCESS_TYPES).unwrap_or_default(),
        soft_resource_limits: keys.get("SoftResourceLimits").unwrap_or_default(),
        hard_resource_limits: keys.get("HardResourceLimits").unwrap_or_default(),
        standard_in_path: keys.get("StandardInPath"),
        standard_out_path: keys.get("StandardOutPath"),
        standard_error_path: keys.get("StandardErrorPath"),
        run_at_load: keys.get("RunAtLoad").unwrap_or(false),
        keep_alive: keep_alive(keys),
        start_interval: keys.number("StartInterval", (1, SECONDS.1)),
        start_calendar_interval: one_or_more(keys.get("StartCalendarInterval")),
        watch_paths: keys.get("WatchPaths").unwrap_or_default(),
        queue_directories: keys.get("QueueDirectories").unwrap_or_default(),
        throttle_interval: keys.number("ThrottleInterval", SECONDS),
        exit_time_out: keys
            .number("ExitTimeOut", SECONDS)
            .unwrap_or(DEFAULT_EXIT_TIME_OUT),
        time_out: keys.number("TimeOut", SECONDS),
        launch_only_once: keys.get("LaunchOnlyOnce").unwrap_or(false),
        abandon_process_group: keys.get("AbandonProcessGroup").unwrap_or(false),
        mach_services: keys.get("MachServices").unwrap_or_default(),
        sockets: sockets(keys),
        entitlements: keys.get("Entitlements"),
        isolation: keys.word("Isolation", ISOLATIONS).unwrap_or_default(),
        report_refusals: keys.get("ReportRefusals").unwrap_or(false),
        after: keys.get("After").unwrap_or_default(),
        requires: keys.get("Requires").unwrap_or_default(),
        // Last, so that all keys are known.
        label: label?,
    })
}

fn label(keys: &mut Keys<'_, '_, '_>) -> Option<JobLabel> {
    let Some((value, place)) = keys.take("Label") else {
        let place = Place::missing(keys.log.source, "Label");
        keys.log.error(&place, JobError::NoLabel);
        return None;
    };
    JobLabel::from_value(value, &place, keys.log)
}

/// What one key alone does not tell.
fn check(job: &Job, items: &[Item], log: &mut Log<'_>) {
    if job.program.is_none() && job.program_arguments.is_empty() {
        let place = Place::missing(log.source, "Program");
        log.error(&place, JobError::NoProgram);
    }
    for name in job.environment_variables.keys() {
        if name.is_empty() || name.contains('=') {
            let place = place(items, &["EnvironmentVariables", name]);
            log.error(&place, JobError::Variable);
        }
    }
    let hard = job.hard_resource_limits.each();
    for ((key, soft), (_, hard)) in job.soft_resource_limits.each().into_iter().zip(hard) {
        if let (Some(soft), Some(hard)) = (soft, hard)
            && soft > hard
        {
            let place = place(items, &["SoftResourceLimits", key]);
            log.error(&place, JobError::AboveHardLimit { hard });
        }
    }
    for (key, labels) in [("After", &job.after), ("Requires", &job.requires)] {
        if labels.contains(&job.label) {
            log.error(&place(items, &[key]), JobError::WaitsForItself);
        }
    }
    if job.report_refusals && !job.is_confined() {
        let place = place(items, &["ReportRefusals"]);
        log.warn(&place, Warning::NothingRefused);
    }
}

/// Where a key is that has been read.
fn place(mut items: &[Item], keys: &[&str]) -> Place {
    let mut place = Place::default();
    for key in keys {
        let is_it = |item: &&Item| item.key.eq_ignore_ascii_case(key);
        let Some(item) = items.iter().find(is_it) else {
            break;
        };
        place = place.below(item);
        items = match &item.value {
            Value::Dictionary(items) => items,
            _ => &[],
        };
    }
    place
}

/// One value, or an array of them.
struct OneOrMore<T>(Vec<T>);

fn one_or_more<T>(values: Option<OneOrMore<T>>) -> Vec<T> {
    values.map_or(Vec::new(), |OneOrMore(values)| values)
}

impl<T: FromValue> FromValue for OneOrMore<T> {
    fn from_value(value: &Value, place: &Place, log: &mut Log<'_>) -> Option<Self> {
        if matches!(value, Value::Array(_)) {
            return Vec::from_value(value, place, log).map(Self);
        }
        T::from_value(value, place, log).map(|value| Self(vec![value]))
    }
}

/// Permissions: a whole number, or the text of one as C has it, in octal if it begins with 0.
struct Mode(u16);

impl FromValue for Mode {
    fn from_value(value: &Value, place: &Place, log: &mut Log<'_>) -> Option<Self> {
        let mode = match value {
            Value::String(text) => &Value::Integer(match strtoul(text) {
                Some(mode) => mode,
                None => return wrong_type(place, log, "permissions such as \"022\""),
            }),
            value => value,
        };
        number(mode, MODES, place, log).map(Self)
    }
}

/// The whole text as the C function reads it with base 0.
fn strtoul(text: &str) -> Option<i128> {
    let (digits, radix) = match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    let plain = digits.chars().all(|c| c.is_ascii_alphanumeric());
    plain.then(|| i128::from_str_radix(digits, radix).ok())?
}

const ISOLATIONS: &[(&str, Isolation)] = &[
    ("required:T2", Isolation::Required(Tier::T2)),
    ("best", Isolation::Best),
    ("T1", Isolation::Required(Tier::T1)),
];

const PROCESS_TYPES: &[(&str, ProcessType)] = &[
    ("Background", ProcessType::Background),
    ("Standard", ProcessType::Standard),
    ("Adaptive", ProcessType::Adaptive),
    ("Interactive", ProcessType::Interactive),
];

impl FromValue for ResourceLimits {
    fn from_value(value: &Value, place: &Place, log: &mut Log<'_>) -> Option<Self> {
        const ANY: (i128, i128) = (0, u64::MAX as i128);
        let mut keys = Keys::of(value, place, log)?;
        let limits = Self {
            core: keys.number("Core", ANY),
            cpu: keys.number("CPU", ANY),
            data: keys.number("Data", ANY),
            file_size: keys.number("FileSize", ANY),
            memory_lock: keys.number("MemoryLock", ANY),
            number_of_files: keys.number("NumberOfFiles", ANY),
            number_of_processes: keys.number("NumberOfProcesses", ANY),
            stack: keys.number("Stack", ANY),
        };
        keys.finish(&known::RESOURCE_LIMITS);
        Some(limits)
    }
}

impl ResourceLimits {
    fn each(&self) -> [(&'static str, Option<u64>); 8] {
        [
            ("Core", self.core),
            ("CPU", self.cpu),
            ("Data", self.data),
            ("FileSize", self.file_size),
            ("MemoryLock", self.memory_lock),
            ("NumberOfFiles", self.number_of_files),
            ("NumberOfProcesses", self.number_of_processes),
            ("Stack", self.stack),
        ]
    }
}

fn keep_alive(keys: &mut Keys<'_, '_, '_>) -> KeepAlive {
    let older = on_demand(keys).map(|on_demand| KeepAlive::Always(!on_demand));
    let keep_alive = keys.get("KeepAlive").or(older);
    keep_alive.unwrap_or(KeepAlive::Always(false))
}

fn on_demand(keys: &mut Keys<'_, '_, '_>) -> Option<bool> {
    let (value, place) = keys.take("OnDemand")?;
    let on_demand = bool::from_value(value, &place, keys.log)?;
    let keep_alive = !on_demand;
    keys.log.warn(&place, Warning::OnDemand { keep_alive });
    Some(on_demand)
}

impl FromValue for KeepAlive {
    fn from_value(value: &Value, place: &Place, log: &mut Log<'_>) -> Option<Self> {
        match value {
            Value::Boolean(always) => Some(Self::Always(*always)),
            Value::Dictionary(_) => Conditions::from_value(value, place, log).map(Self::While),
            _ => wrong_type(place, log, "true, false or a dictionary"),
        }
    }
}

impl FromValue for Conditions {
    fn from_value(value: &Value, place: &Place, log: &mut Log<'_>) -> Option<Self> {
        let mut keys = Keys::of(value, place, log)?;
        let conditions = Self {
            successful_exit: keys.get("SuccessfulExit"),
            crashed: keys.get("Crashed"),
            path_state: keys.get("PathState").unwrap_or_default(),
            other_job_enabled: keys.get("OtherJobEnabled").unwrap_or_default(),
            other_job_active: keys.get("OtherJobActive").unwrap_or_default(),
            after_initial_demand: keys.get("AfterInitialDemand"),
        };
        keys.finish(&known::KEEP_ALIVE);
        Some(conditions)
    }
}

impl FromValue for CalendarInterval {
    fn from_value(value: &Value, place: &Place, log: &mut Log<'_>) -> Option<Self> {
        let mut keys = Keys::of(value, place, log)?;
        let interval = Self {
            minute: keys.number("Minute", (0, 59)),
            hour: keys.number("Hour", (0, 23)),
            day: keys.number("Day", (1, 31)),
            weekday: keys.number("Weekday", (0, 7)),
            month: keys.number("Month", (1, 12)),
        };
        keys.finish(&known::NOTHING);
        Some(interval)
    }
}

impl FromValue for MachService {
    fn from_value(value: &Value, place: &Place, log: &mut Log<'_>) -> Option<Self> {
        match value {
            Value::Dictionary(items) => Some(mach_service(items, place, log)),
            Value::Boolean(served) => {
                if !served {
                    log.warn(place, Warning::FalseService);
                }
                Some(Self::default())
            }
            _ => wrong_type(place, log, "true or a dictionary"),
        }
    }
}

fn mach_service(items: &[Item], place: &Place, log: &mut Log<'_>) -> MachService {
    let may_be_unquoted = log.source.format == Format::Toml;
    let mut keys = Keys::new(items, place, log);
    let service = MachService {
        reset_at_close: keys.get("ResetAtClose").unwrap_or(false),
        hide_until_check_in: keys.get("HideUntilCheckIn").unwrap_or(false),
        drain_messages_on_crash: keys.word(
            "DrainMessagesOnCrash",
            &[("One", Drain::One), ("All", Drain::All)],
        ),
    };
    keys.finish_with(&known::MACH_SERVICE, |nearest| match nearest {
        None if may_be_unquoted => JobError::UnquotedName,
        nearest => JobError::UnknownKey { nearest },
    });
    service
}

fn sockets(keys: &mut Keys<'_, '_, '_>) -> BTreeMap<String, Vec<Socket>> {
    let sockets: BTreeMap<_, OneOrMore<Socket>> = keys.get("Sockets").unwrap_or_default();
    let sockets = sockets.into_iter();
    sockets
        .map(|(name, OneOrMore(sockets))| (name, sockets))
        .filter(|(_, sockets)| !sockets.is_empty())
        .collect()
}

impl FromValue for Socket {
    fn from_value(value: &Value, place: &Place, log: &mut Log<'_>) -> Option<Self> {
        let mut keys = Keys::of(value, place, log)?;
        let sock_type = keys.word("SockType", SOCKET_TYPES).unwrap_or_default();
        let sock_passive = keys.get("SockPassive").unwrap_or(true);
        check_protocol(&mut keys, sock_type);
        let address = address(&mut keys);
        keys.finish(&known::SOCKET);
        Some(Self {
            sock_type,
            sock_passive,
            address: address?,
        })
    }
}

const SOCKET_TYPES: &[(&str, SocketType)] = &[
    ("stream", SocketType::Stream),
    ("dgram", SocketType::Dgram),
    ("seqpacket", SocketType::Seqpacket),
];

/// The type of the socket implies the protocol.
fn check_protocol(keys: &mut Keys<'_, '_, '_>, sock_type: SocketType) {
    const PROTOCOLS: &[(&str, SocketType)] =
        &[("TCP", SocketType::Stream), ("UDP", SocketType::Dgram)];
    let Some((value, place)) = keys.take("SockProtocol") else {
        return;
    };
    let implied = word(value, PROTOCOLS, &place, keys.log);
    if implied.is_some_and(|implied| implied != sock_type) {
        keys.log.error(&place, JobError::SocketProtocol);
    }
}

/// A socket in the file system, or one in the network. Keys of the other kind are told of.
fn address(keys: &mut Keys<'_, '_, '_>) -> Option<SocketAddress> {
    const FAMILIES: &[(&str, Option<SocketFamily>)] = &[
        ("IPv4", Some(SocketFamily::V4)),
        ("IPv6", Some(SocketFamily::V6)),
        ("IPv4v6", Some(SocketFamily::Both)),
        ("Unix", None),
    ];
    let family = keys.word("SockFamily", FAMILIES);
    let (mode, node) = (keys.take("SockPathMode"), keys.take("SockNodeName"));
    match (keys.take("SockPathName"), keys.take("SockServiceName")) {
        (Some(path), None) if !matches!(family, Some(Some(_))) => {
            unused(node, keys.log);
            Some(SocketAddress::Unix {
                sock_path_name: of(path, keys.log)?,
                sock_path_mode: mode
                    .and_then(|mode| of(mode, keys.log))
                    .map(|Mode(mode)| mode),
            })
        }
        (None, Some(service)) if family != Some(None) => {
            unused(mode, keys.log);
            Some(SocketAddress::Inet {
                sock_node_name: node.and_then(|node| of(node, keys.log)),
                sock_service_name: of(service, keys.log).map(|Port(port)| port)?,
                sock_family: family.flatten(),
            })
        }
        (None, None) if keys.has("SecureSocketWithKey") => {
            keys.log.warn(keys.place, Warning::SocketLeftOut);
            None
        }
        _ => {
            keys.log.error(keys.place, JobError::SocketAddress);
            None
        }
    }
}

fn of<T: FromValue>((value, place): (&Value, Place), log: &mut Log<'_>) -> Option<T> {
    T::from_value(value, &place, log)
}

fn unused(entry: Option<(&Value, Place)>, log: &mut Log<'_>) {
    if let Some((_, place)) = entry {
        log.warn(&place, Warning::OtherKindOfSocket);
    }
}

/// The name or the number of a service.
struct Port(String);

impl FromValue for Port {
    fn from_value(value: &Value, place: &Place, log: &mut Log<'_>) -> Option<Self> {
        if !matches!(value, Value::Integer(_)) {
            return String::from_value(value, place, log).map(Self);
        }
        let port: u16 = number(value, (0, u16::MAX.into()), place, log)?;
        Some(Self(port.to_string()))
    }
}

impl FromValue for Entitlements {
    fn from_value(value: &Value, place: &Place, log: &mut Log<'_>) -> Option<Self> {
        let Value::Dictionary(items) = value else {
            return wrong_type(place, log, "a dictionary");
        };
        let reading = Self::from_items(items.clone(), log.source);
        let reading = reading.map_err(|error| log.error(place, error)).ok()?;
        for Ineffective { key, at, reason } in reading.ineffective {
            log.warn(place, Warning::Entitlement { key, at, reason });
        }
        if reading.entitlements.inherit {
            log.error(place, JobError::InheritedSandbox);
            return None;
        }
        Some(reading.entitlements)
    }
}
