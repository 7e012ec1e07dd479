//! Requests that the bridge does not know.

use std::cell::RefCell;
use std::time::Duration;

use kdbridge::rsp::RspTarget;
use proptest::prelude::*;

use crate::debugger::Debugger;
use crate::serving::Serving;
use crate::stub::{Say, Stub};

/// What GDB 13 and LLDB 14 to 19 may send, and nobody here answers.
const UNKNOWN: &str = "\
    vMustReplyEmpty vFile:open:2f,0,0 vFlashDone vAttach;1 vRun; vStopped vCtrlC vStdio vDefaultInferior \
    qTStatus qSymbol:: qL1100 qP0000001f0000000000000001 qCRC:0,10 qSearch:memory:0;10;41 qTfV qTsV qTfP \
    qGetTIBAddr:1 qGetTLSAddr:1,0,0 qXfer:threads:read::0,100 qXfer:siginfo:read::0,100 \
    qXfer:libraries-svr4:read::0,100 qXfer:auxv:read::0,100 qXfer:btrace:read:all:0,100 \
    qVAttachOrWaitSupported qStructuredDataPlugins qShlibInfoAddr qGetWorkingDir qLaunchSuccess qUserName:0 \
    qModuleInfo:2f;78 qSpeedTest:response_size:1; qFileLoadAddress:2f qWatchpointSupportInfo: qKillSpawnedProcess:1 \
    QNonStop:1 QPassSignals: QProgramSignals: QThreadEvents:1 QCatchSyscalls:0 QAllow: QDisableRandomization:1 \
    QSaveRegisterState QRestoreRegisterState:1 QSetDetachOnError:1 QSetSTDIN:2f QLaunchArch:x86_64 \
    jThreadExtendedInfo:{} jGetLoadedDynamicLibrariesInfos:{} jGetSharedCacheInfo:{} jModulesInfo:[] jSignalsInfo \
    vCont;t vCont;t:1 vCont;r10,20:1 vCont;c;t:1 vCont;Czz c1000 \
    A6,0,2f B0,S F0 R00 b bc bs d i0 r t0:0,0 ! _M10,rwx _m0 e no-such-packet";

/// What no request that is known begins with.
const STRANGE: &str = "[abdefijlnoruwyABEFIJKLNORUWY!@~^_(){}=<>|&%][ -~]{0,30}";

fn modest(request: &[u8]) -> Say {
    match request {
        b"?" => "S05".into(),
        b"vCont;c" | b"c" | b"\x03" => "T02thread:1;".into(),
        _ => "".into(),
    }
}

fn with_a_debugger(talk: impl FnOnce(&mut Debugger)) {
    let (_stub, line) = Stub::play(modest);
    let target = RspTarget::over(line, Duration::from_secs(20)).unwrap();
    let bridge = Serving::start(target, Box::new(|_| None));
    talk(&mut Debugger::connect(&bridge));
}

#[test]
fn k25_what_is_not_known_has_an_empty_answer() {
    with_a_debugger(|debugger| {
        for request in UNKNOWN.split_whitespace() {
            assert_eq!(debugger.ask(request), "", "{request}");
        }
    });
}

#[test]
fn k25_what_nobody_knows_has_an_empty_answer() {
    with_a_debugger(|debugger| {
        let config = ProptestConfig::with_cases(256);
        let debugger = RefCell::new(debugger);
        proptest!(config, |(request in STRANGE)| {
            prop_assert_eq!(debugger.borrow_mut().ask(&request), "");
        });
    });
}
