//! Writes down the compiler and the versions of the peers, for the page.

use std::env;
use std::process::Command;

/// Those whose versions are told, as far as they are in the lock file.
const PEERS: &[&str] = &[
    "iceoryx2",
    "ipc-channel",
    "prost",
    "tarpc",
    "tokio",
    "tonic",
    "zbus",
    "zmq",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let lock = "../../Cargo.lock";
    let text = std::fs::read_to_string(lock)?;
    let versions: Vec<String> = PEERS
        .iter()
        .filter_map(|name| version(&text, name))
        .collect();
    let rustc = Command::new(env::var("RUSTC")?).arg("--version").output()?;
    let lines = [
        format!("cargo::rerun-if-changed={lock}"),
        format!("cargo::rustc-env=BENCH_PEERS={}", versions.join(",")),
        format!(
            "cargo::rustc-env=BENCH_RUSTC={}",
            String::from_utf8_lossy(&rustc.stdout).trim()
        ),
        format!("cargo::rustc-env=BENCH_PROFILE={}", env::var("PROFILE")?),
    ];
    let mut out = std::io::stdout().lock();
    for line in lines {
        std::io::Write::write_all(&mut out, format!("{line}\n").as_bytes())?;
    }
    Ok(())
}

fn version(lock: &str, name: &str) -> Option<String> {
    let (_, rest) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    let (version, _) = rest.split_once('"')?;
    Some(format!("{name} {version}"))
}
