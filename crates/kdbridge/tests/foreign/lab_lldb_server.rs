//! LLDB's stub behind the bridge.

use crate::program::Program;
use crate::sessions;

#[test]
fn k25_gdb_debugs_a_program_behind_lldb_server() {
    sessions::gdb(Program::behind_lldb_server);
}

#[test]
fn k25_lldb_debugs_a_program_behind_lldb_server() {
    sessions::lldb(Program::behind_lldb_server);
}
