//! Outcomes of bootstrap calls.

use std::fmt;

/// The outcome of a bootstrap call, with the numbers of Apple's `bootstrap.h`; what concerns jobs has
/// numbers of our own.
///
/// A number that this version does not know is kept as it is, so that a newer server's answer
/// reaches whoever asked.
///
/// ```
/// use portolan_wire::code::BootstrapCode;
///
/// let code = BootstrapCode::from_raw(1102);
/// assert_eq!(code, BootstrapCode::UNKNOWN_SERVICE);
/// assert_eq!(code.name(), Some("BOOTSTRAP_UNKNOWN_SERVICE"));
/// assert_eq!(code.to_string(), "Unknown service name");
///
/// assert_eq!(BootstrapCode::from_raw(141).raw(), 141);
/// assert_eq!(BootstrapCode::from_raw(141).to_string(), "bootstrap code 141");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootstrapCode(i32);

impl BootstrapCode {
    /// The call succeeded.
    pub const SUCCESS: Self = Self(0);
    /// Policy forbids it, or the name belongs to another job.
    pub const NOT_PRIVILEGED: Self = Self(1100);
    /// A job of this label exists. No call on a service answers this in launchd 842, and of the
    /// calls on jobs here it is [`JOB_LOADED`](Self::JOB_LOADED).
    pub const NAME_IN_USE: Self = Self(1101);
    /// Nothing is published under the name for this caller.
    pub const UNKNOWN_SERVICE: Self = Self(1102);
    /// The caller has published the name already, and it is active.
    pub const SERVICE_ACTIVE: Self = Self(1103);
    /// Too many names in one request. Never answered by launchd 842.
    pub const BAD_COUNT: Self = Self(1104);
    /// A limit is reached, the port is dead, or the caller cannot be identified.
    pub const NO_MEMORY: Self = Self(1105);
    /// The server has no servers below it.
    pub const NO_CHILDREN: Self = Self(1106);

    /// No job has this label, or the caller is none. This and the numbers up to 1299 are our own:
    /// launchd answers errno values to calls on jobs, which say little.
    pub const JOB_NOT_FOUND: Self = Self(1200);
    /// A job of this label is loaded already.
    pub const JOB_LOADED: Self = Self(1201);
    /// The job file cannot be used.
    pub const BAD_JOB_FILE: Self = Self(1202);
    /// The job is disabled.
    pub const JOB_DISABLED: Self = Self(1203);
    /// Nothing of the job runs.
    pub const JOB_NOT_RUNNING: Self = Self(1204);
    /// This server cannot do it, for instance because it runs inside another program.
    pub const UNSUPPORTED: Self = Self(1205);
    /// The job could not be started; the answer says how
    /// ([`StartFailure`](crate::failure::StartFailure)).
    pub const START_FAILED: Self = Self(1206);

    /// No such operation: `MIG_BAD_ID` of Apple's `mig_errors.h`.
    pub const BAD_OPERATION: Self = Self(-303);
    /// The request is malformed: `MIG_BAD_ARGUMENTS` of Apple's `mig_errors.h`.
    pub const BAD_ARGUMENTS: Self = Self(-304);

    /// Takes the number as it came in an answer.
    pub const fn from_raw(raw: i32) -> Self {
        Self(raw)
    }

    /// The number.
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// The name of the constant in Apple's headers, or of our own; `None` for a number that is not
    /// known.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::SUCCESS => Some("BOOTSTRAP_SUCCESS"),
            Self::NOT_PRIVILEGED => Some("BOOTSTRAP_NOT_PRIVILEGED"),
            Self::NAME_IN_USE => Some("BOOTSTRAP_NAME_IN_USE"),
            Self::UNKNOWN_SERVICE => Some("BOOTSTRAP_UNKNOWN_SERVICE"),
            Self::SERVICE_ACTIVE => Some("BOOTSTRAP_SERVICE_ACTIVE"),
            Self::BAD_COUNT => Some("BOOTSTRAP_BAD_COUNT"),
            Self::NO_MEMORY => Some("BOOTSTRAP_NO_MEMORY"),
            Self::NO_CHILDREN => Some("BOOTSTRAP_NO_CHILDREN"),
            Self::JOB_NOT_FOUND => Some("PORTOLAN_JOB_NOT_FOUND"),
            Self::JOB_LOADED => Some("PORTOLAN_JOB_LOADED"),
            Self::BAD_JOB_FILE => Some("PORTOLAN_BAD_JOB_FILE"),
            Self::JOB_DISABLED => Some("PORTOLAN_JOB_DISABLED"),
            Self::JOB_NOT_RUNNING => Some("PORTOLAN_JOB_NOT_RUNNING"),
            Self::UNSUPPORTED => Some("PORTOLAN_UNSUPPORTED"),
            Self::START_FAILED => Some("PORTOLAN_START_FAILED"),
            Self::BAD_OPERATION => Some("MIG_BAD_ID"),
            Self::BAD_ARGUMENTS => Some("MIG_BAD_ARGUMENTS"),
            _ => None,
        }
    }

    /// The text that `bootstrap_strerror` of launchd 842 has for the number; `None` where it has
    /// none, which includes [`NO_CHILDREN`](Self::NO_CHILDREN).
    pub const fn text(self) -> Option<&'static str> {
        match self {
            Self::SUCCESS => Some("Success"),
            Self::NOT_PRIVILEGED => Some("Permission denied"),
            Self::NAME_IN_USE | Self::SERVICE_ACTIVE => Some("Service name already exists"),
            Self::UNKNOWN_SERVICE => Some("Unknown service name"),
            Self::BAD_COUNT => Some("Too many lookups were requested in one request"),
            Self::NO_MEMORY => Some("Out of memory"),
            _ => None,
        }
    }
}

impl fmt::Display for BootstrapCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.text(), *self) {
            (Some(text), _) => f.write_str(text),
            (None, Self::NO_CHILDREN) => f.write_str("No child servers"),
            (None, Self::JOB_NOT_FOUND) => f.write_str("No such job"),
            (None, Self::JOB_LOADED) => f.write_str("The job is loaded already"),
            (None, Self::BAD_JOB_FILE) => f.write_str("The job file cannot be used"),
            (None, Self::JOB_DISABLED) => f.write_str("The job is disabled"),
            (None, Self::JOB_NOT_RUNNING) => f.write_str("The job is not running"),
            (None, Self::UNSUPPORTED) => f.write_str("This server cannot do that"),
            (None, Self::START_FAILED) => f.write_str("The job could not be started"),
            (None, Self::BAD_OPERATION) => f.write_str("Unknown operation"),
            (None, Self::BAD_ARGUMENTS) => f.write_str("Malformed request"),
            (None, Self(raw)) => write!(f, "bootstrap code {raw}"),
        }
    }
}

impl fmt::Debug for BootstrapCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({})", self.0),
            None => write!(f, "BootstrapCode({})", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::BootstrapCode;

    #[test]
    fn numbers_and_texts_are_those_of_launchd() {
        let table = [
            (0, "Success"),
            (1100, "Permission denied"),
            (1101, "Service name already exists"),
            (1102, "Unknown service name"),
            (1103, "Service name already exists"),
            (1104, "Too many lookups were requested in one request"),
            (1105, "Out of memory"),
        ];
        for (raw, text) in table {
            assert_eq!(BootstrapCode::from_raw(raw).text(), Some(text));
        }
        assert_eq!(BootstrapCode::NO_CHILDREN.raw(), 1106);
        assert_eq!(BootstrapCode::NO_CHILDREN.text(), None);
        assert_eq!(BootstrapCode::from_raw(1107).name(), None);
    }

    #[test]
    fn our_own_numbers_have_names_and_words_but_no_text_of_launchd() {
        for raw in 1200..=1206 {
            let code = BootstrapCode::from_raw(raw);
            let name = code.name().expect("a name");
            assert!(name.starts_with("PORTOLAN_"), "{name}");
            assert_eq!(code.text(), None);
            assert!(!code.to_string().contains("bootstrap code"), "{code}");
        }
        assert_eq!(BootstrapCode::from_raw(1207).name(), None);
    }
}
