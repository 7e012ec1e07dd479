//! An IDE, by the configuration that the guide has.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::bridge::Bridge;
use crate::dap::Adapter;
use crate::lab_debuggers::{keep_busy, lives};
use crate::machine::{Machine, vmlinux};

/// The configurations in the guide, as they are for an editor.
fn configurations() -> Vec<Value> {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide/ide.md");
    let guide = fs::read_to_string(guide).unwrap();
    let blocks = guide.split("```json\n").skip(1);
    let blocks = blocks.map(|rest| rest.split("```").next().unwrap());
    blocks
        .map(|block| serde_json::from_str(block).unwrap())
        .collect()
}

/// The one of the guide for `lldb-dap`, for this bridge.
fn attach(bridge: &Bridge) -> Value {
    let all = configurations();
    let found = all.iter().find(|it| it["type"] == "lldb-dap");
    let mut arguments = found.expect("a configuration").clone();
    assert_eq!(arguments["attachCommands"], json!(["gdb-remote 2345"]));
    assert_eq!(arguments["program"], "${workspaceFolder}/vmlinux");
    arguments["program"] = json!(vmlinux());
    let connect = format!("gdb-remote {}", bridge.address());
    arguments["attachCommands"] = json!([connect]);
    arguments
}

#[test]
fn k29_an_ide_breaks_in_the_kernel_and_leaves_it_running() {
    let mut machine = Machine::boot();
    keep_busy(&mut machine);
    let bridge = Bridge::serve_at(&machine, ":0", &[]);
    let mut ide = Adapter::start();
    let hello = json!({"adapterID": "lldb-dap", "linesStartAt1": true, "pathFormat": "path"});
    let can = ide.ask("initialize", &hello);
    assert_eq!(can["supportsFunctionBreakpoints"], true);
    let attached = ide.send("attach", &attach(&bridge));
    ide.event("initialized");
    let breakpoints = json!({"breakpoints": [{"name": "do_sys_openat2"}]});
    let set = ide.ask("setFunctionBreakpoints", &breakpoints);
    assert_eq!(set["breakpoints"][0]["verified"], true, "{set}");
    ide.ask("configurationDone", &json!({}));
    ide.answer(attached);

    let stop = ide.event("stopped");
    let thread = stop["threadId"].clone();
    let threads = ide.ask("threads", &json!({}));
    assert_eq!(threads["threads"].as_array().unwrap().len(), 2, "{threads}");
    let stack = ide.ask("stackTrace", &json!({"threadId": thread, "levels": 20}));
    let frames = stack["stackFrames"].as_array().unwrap();
    let names: Vec<_> = frames.iter().filter_map(|it| it["name"].as_str()).collect();
    assert!(names[0].starts_with("do_sys_openat2"), "{stop} {names:?}");
    assert!(
        names.iter().any(|it| it.starts_with("do_syscall_64")),
        "{names:?}"
    );
    assert_eq!(frames[0]["source"]["name"], "open.c");
    assert!(frames[0]["line"].as_u64().unwrap() > 0, "{stack}");

    let scopes = ide.ask("scopes", &json!({"frameId": frames[0]["id"]}));
    let locals = scopes["scopes"][0]["variablesReference"].clone();
    let locals = ide.ask("variables", &json!({"variablesReference": locals}));
    let locals = locals["variables"].as_array().unwrap();
    let dfd = locals.iter().find(|it| it["name"] == "dfd").unwrap();
    assert_eq!(dfd["value"], "-100");
    ide.ask("disconnect", &json!({}));
    lives(&mut machine);
}
