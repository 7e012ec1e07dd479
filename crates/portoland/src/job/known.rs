//! Keys of launchd 842 and later that jobs of others have, and that have no effect here.

use super::finding::Warning;

/// Keys by what is said about them.
pub(super) struct Ignored {
    no_meaning: &'static [&'static str],
    not_supported: &'static [&'static str],
}

impl Ignored {
    pub(super) fn all(&self) -> impl Iterator<Item = &'static str> {
        self.no_meaning.iter().chain(self.not_supported).copied()
    }

    pub(super) fn warning(&self, key: &str) -> Option<Warning> {
        let has = |keys: &[&str]| keys.iter().any(|known| known.eq_ignore_ascii_case(key));
        if has(self.no_meaning) {
            return Some(Warning::NoMeaning);
        }
        has(self.not_supported).then_some(Warning::NotSupported)
    }
}

pub(super) const NOTHING: Ignored = Ignored {
    no_meaning: &[],
    not_supported: &[],
};

pub(super) const JOB: Ignored = Ignored {
    no_meaning: &[
        "AssociatedBundleIdentifiers",
        "AuditSessionID",
        "BeginTransactionAtShutdown",
        "BinaryOrderPreference",
        "BundleProgram",
        "CFBundleIdentifier",
        "EmbeddedMainThreadPriority",
        "EmbeddedPrivilegeDispensation",
        "EnablePressuredExit",
        "EnableTransactions",
        "EnterKernelDebuggerBeforeKill",
        "EventMonitor",
        "HopefullyExitsFirst",
        "HopefullyExitsLast",
        "IgnoreProcessGroupAtShutdown",
        "JetsamMemoryLimit",
        "JetsamPriority",
        "JetsamProperties",
        "JoinGUISession",
        "LastExitStatus",
        "LaunchEvents",
        "LegacyTimers",
        "LimitLoadFromHardware",
        "LimitLoadFromHosts",
        "LimitLoadToHardware",
        "LimitLoadToHosts",
        "LimitLoadToSessionType",
        "LowPriorityBackgroundIO",
        "MachExceptionHandler",
        "MachServiceLookupPolicies",
        "MaterializeDatalessFiles",
        "PID",
        "POSIXSpawnType",
        "PerJobMachServices",
        "QuarantineData",
        "SHAuthorizationRight",
        "SecuritySessionUUID",
        "ServiceDescription",
        "ServiceIPC",
        "SessionCreate",
        "ShutdownMonitor",
        "TransactionCount",
        "XPCDomain",
        "XPCDomainBootstrapper",
    ],
    not_supported: &[
        "Debug",
        "DisableASLR",
        "EnableGlobbing",
        "InitGroups",
        "LowPriorityIO",
        "MultipleInstances",
        "Policies",
        "RootDirectory",
        "SandboxContainer",
        "SandboxFlags",
        "SandboxProfile",
        "StartOnMount",
        "UserEnvironmentVariables",
        "WaitForDebugger",
        "inetdCompatibility",
    ],
};

pub(super) const KEEP_ALIVE: Ignored = Ignored {
    no_meaning: &[],
    not_supported: &["NetworkState"],
};

/// The kernel has had no limit of this kind since Linux 2.4.30.
pub(super) const RESOURCE_LIMITS: Ignored = Ignored {
    no_meaning: &["ResidentSetSize"],
    not_supported: &[],
};

pub(super) const MACH_SERVICE: Ignored = Ignored {
    no_meaning: &[
        "EnterKernelDebuggerOnClose",
        "ExceptionServer",
        "HostSpecialPort",
        "PingEventUpdates",
        "TaskSpecialPort",
        "kUNCServer",
    ],
    not_supported: &[],
};

pub(super) const SOCKET: Ignored = Ignored {
    no_meaning: &[],
    not_supported: &[
        "Bonjour",
        "MulticastGroup",
        "ReceivePacketInfo",
        "SecureSocketWithKey",
        "SockPathGroup",
        "SockPathOwner",
    ],
};
