//! What only LLDB asks.

use super::requests::{Answer, Conversation, Refusal};
use crate::rsp::hex;
use crate::target::Target;

const PAGE: u64 = 4096;

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
    matches!(request, b"qHostInfo" | b"qProcessInfo") || request.starts_with(b"qMemoryRegionInfo:")
}

/// A page, which is there or not; what may be done with it is not known.
fn region<T: Target>(conversation: &mut Conversation<'_, T>, at: &[u8]) -> Result<Answer, Refusal> {
    let at = hex::number(at).ok_or(Refusal::Malformed)? & !(PAGE - 1);
    conversation.standing()?;
    let there = conversation.read(at, &mut [0])? > 0;
    let permissions = if there { "permissions:rwx;" } else { "" };
    Ok(format!("start:{at:x};size:{PAGE:x};{permissions}").into())
}
