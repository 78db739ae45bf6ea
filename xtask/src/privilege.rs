//! Whether this machine lets us make namespaces and load kernel programs, told before we try.

use anyhow::{Context, Result, ensure};

/// Bits of capability masks, as linux/capability.h numbers them.
const NEEDED: [(u32, &str); 4] = [
    (12, "CAP_NET_ADMIN"),
    (13, "CAP_NET_RAW"),
    (21, "CAP_SYS_ADMIN"),
    (39, "CAP_BPF"),
];

/// Fails with everything that is missing.
pub(crate) fn ensure() -> Result<()> {
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("root".to_owned());
    }
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    missing.extend(lacking(&status)?.into_iter().map(str::to_owned));
    if let Err(error) = harness::cgroup::root() {
        missing.push(format!("{error:#}"));
    }
    ensure!(
        missing.is_empty(),
        "this machine or user lacks: {}",
        missing.join(", ")
    );
    Ok(())
}

fn lacking(status: &str) -> Result<Vec<&'static str>> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = line.context("no CapEff in /proc/self/status")?;
    let mask = u64::from_str_radix(mask.trim(), 16).context("read CapEff")?;
    let absent = NEEDED.into_iter().filter(|(bit, _)| mask & (1 << bit) == 0);
    Ok(absent.map(|(_, name)| name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_named() {
        assert_eq!(
            lacking("CapEff:\t000001ffffffffff\n").unwrap(),
            Vec::<&str>::new()
        );
        assert_eq!(lacking("CapEff:\t0000007fffffffff\n").unwrap(), ["CAP_BPF"]);
        assert_eq!(lacking("CapEff:\t0000000000000000\n").unwrap().len(), 4);
        assert!(lacking("Name:\tx\n").is_err());
    }
}
