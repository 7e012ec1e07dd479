//! What only LLDB asks.

use std::ops::Range;

use super::requests::{Answer, Conversation, Refusal};
use crate::pages::PAGE;
use crate::rsp::hex;
use crate::target::Target;

/// `None` if it is none of them.
pub(super) fn query<T: Target>(
    conversation: &mut Conversation<'_, T>,
    request: &[u8],
) -> Result<Option<Answer>, Refusal> {
    if conversation.machine.of_lldb && is_about_program(request) {
        return conversation.forward(request).map(Some);
    }
    let talk = &mut *conversation.talk;
    let answer = match request {
        b"QThreadSuffixSupported" => {
            talk.suffix = true;
            "OK".into()
        }
        b"QListThreadsInStopReply" => {
            talk.list_threads = true;
            "OK".into()
        }
        b"QEnableErrorStrings" => {
            talk.error_texts = true;
            "OK".into()
        }
        // What else there is to know is in the description of the registers.
        b"qHostInfo" | b"qProcessInfo" if !conversation.machine.amd64 => "".into(),
        b"qHostInfo" => "ptrsize:8;endian:little;vm-page-size:4096;".into(),
        b"qProcessInfo" => "pid:1;ptrsize:8;endian:little;".into(),
        b"qGDBServerVersion" => {
            let version = env!("CARGO_PKG_VERSION");
            format!("name:kdbridge;version:{version};").into()
        }
        _ => match request.strip_prefix(b"qMemoryRegionInfo:") {
            Some(at) => region(conversation, at)?,
            None => return Ok(None),
        },
    };
    Ok(Some(answer))
}

/// What LLDB's own stub knows better.
fn is_about_program(request: &[u8]) -> bool {
    let region = request.strip_prefix(b"qMemoryRegionInfo:");
    let region = region.and_then(hex::number);
    matches!(request, b"qHostInfo" | b"qProcessInfo") || region.is_some()
}

/// What no x86-64 processor has addresses for, not with five levels of page tables either.
const NOWHERE: Range<u64> = 1 << 56..0xff00_0000_0000_0000;

/// A page that is there, or a hole; what may be done with a page is not known. LLDB looks for room where
/// nothing is, hole by hole.
fn region<T: Target>(conversation: &mut Conversation<'_, T>, at: &[u8]) -> Result<Answer, Refusal> {
    let at = hex::number(at).ok_or(Refusal::Malformed)? & !(PAGE - 1);
    conversation.standing()?;
    if conversation.read(at, &mut [0])? > 0 {
        return Ok(format!("start:{at:x};size:{PAGE:x};permissions:rwx;").into());
    }
    if conversation.machine.amd64 && NOWHERE.contains(&at) {
        let size = NOWHERE.end - NOWHERE.start;
        return Ok(format!("start:{:x};size:{size:x};", NOWHERE.start).into());
    }
    conversation.machine.target.look_from(conversation.cpu())?;
    let size = conversation.machine.target.hole(at)?.unwrap_or(PAGE);
    let start = at & !(size - 1);
    Ok(format!("start:{start:x};size:{size:x};").into())
}
