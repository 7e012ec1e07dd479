//! The JSON that other programs read, from runs too short to mean anything.

use std::process::Command;

use serde_json::Value;

fn cells(arguments: &[&str]) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_portolan-bench"))
        .args(["--json", "--budget-ms", "2"])
        .args(arguments)
        .output()
        .expect("the benchmark runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let mut report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(report["machine"]["cpu"].is_string());
    assert!(report["machine"]["before"]["load"].is_f64());
    let Value::Array(cells) = report["cells"].take() else {
        panic!("no cells: {report}");
    };
    for cell in &cells {
        check(cell);
    }
    cells
}

/// What holds for a cell whatever it measures.
fn check(cell: &Value) {
    if cell["status"]["missing"].is_string() {
        assert!(
            cell["p50_ns"].is_null() && cell["per_s"].is_null(),
            "{cell}"
        );
        return;
    }
    assert_eq!(cell["status"], "measured", "{cell}");
    for text in ["workload", "variant", "peer"] {
        assert!(cell[text].is_string(), "{cell}");
    }
    assert_eq!(
        cell["policy"].is_string(),
        cell["peer"] == "portolan",
        "{cell}"
    );
    if cell["variant"]
        .as_str()
        .is_some_and(|v| v.starts_with("idle-"))
        && cell["workload"] == "W7"
    {
        assert!(
            cell["idle_cpu_s"].is_f64() && cell["per_s"].is_null(),
            "{cell}"
        );
        return;
    }
    for number in ["per_s", "cpu_s_per_100k", "ratio_to_seqpacket"] {
        assert!(
            cell[number].as_f64().is_some_and(|n| n > 0.0),
            "{number}: {cell}"
        );
    }
    if cell["workload"] == "W3" {
        assert!(cell["p50_ns"].is_null(), "{cell}");
    } else {
        let (p50, p99) = (cell["p50_ns"].as_u64(), cell["p99_ns"].as_u64());
        assert!(p50 > Some(0) && p99 >= p50, "{cell}");
    }
    if cell["peer"] == "seqpacket" {
        assert_eq!(cell["ratio_to_seqpacket"], 1.0);
    }
}

fn has(cells: &[Value], workload: &str, variant: &str, peer: &str) -> bool {
    cells.iter().any(|cell| {
        cell["workload"] == workload && cell["variant"] == variant && cell["peer"] == peer
    })
}

#[test]
fn quick_has_every_required_cell() {
    let cells = cells(&["--quick", "--rounds", "1"]);
    let limits = ["limit-spin", "limit-spin-then-futex", "limit-futex"];
    let peers = ["portolan", "seqpacket", "stream"];
    for variant in ["two-cores", "one-core", "free"] {
        for peer in peers.iter().chain(&limits).chain(&["limit-memcpy"]) {
            assert!(has(&cells, "W1", variant, peer), "W1 {variant} {peer}");
        }
    }
    for variant in ["64B-free", "64B-two-cores", "4KiB-free", "4KiB-two-cores"] {
        for peer in peers.iter().chain(&limits) {
            assert!(has(&cells, "W3", variant, peer), "W3 {variant} {peer}");
        }
    }
    for variant in ["two-cores", "free", "idle-1", "idle-1000"] {
        for peer in peers {
            assert!(has(&cells, "W7", variant, peer), "W7 {variant} {peer}");
        }
    }
}

#[test]
fn the_other_workloads_run() {
    let wanted = [
        ("W2", "4KiB-one-core"),
        ("W2", "1MiB-two-cores"),
        ("W4", "free"),
        ("W5", "free"),
        ("W6", "free"),
        ("W8", "idle-1"),
        ("W8", "idle-100"),
    ];
    let cells = cells(&[
        "--workload",
        "W2,W4,W5,W6,W8",
        "--variant",
        "4KiB-one-core,1MiB-two-cores,free,idle-1,idle-100",
        "--peer",
        "portolan,stream",
        "--rounds",
        "1",
    ]);
    // Three ways of waiting, but for eight clients.
    assert_eq!(cells.len(), wanted.len() * 5 - 1);
    for (workload, variant) in wanted {
        for peer in ["portolan", "seqpacket", "stream"] {
            assert!(
                has(&cells, workload, variant, peer),
                "{workload} {variant} {peer}"
            );
        }
    }
}
