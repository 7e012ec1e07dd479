//! Older versions of LLDB. They cannot be installed beside the newest, because their modules for Python
//! exclude each other; without these, they run from any folder.

/// Beside the one that is installed.
const VERSIONS: [&str; 2] = ["14", "16"];

/// The packages, and what is needed of each.
pub(super) fn packages() -> impl Iterator<Item = (String, Vec<String>)> {
    VERSIONS.into_iter().flat_map(|version| {
        let system = "usr/lib/x86_64-linux-gnu";
        let own = format!("usr/lib/llvm-{version}");
        [
            (format!("lldb-{version}"), vec![format!("{own}/bin/lldb")]),
            (
                format!("liblldb-{version}"),
                vec![format!("{system}/liblldb-{version}.so.1")],
            ),
            (
                format!("libllvm{version}"),
                vec![format!("{system}/libLLVM-{version}.so.1")],
            ),
            (
                format!("libclang-cpp{version}"),
                vec![
                    format!("{own}/lib/libclang-cpp.so.{version}"),
                    format!("{system}/libclang-cpp.so.{version}"),
                ],
            ),
        ]
    })
}
