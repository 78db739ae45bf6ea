//! Starts programs in a namespace and a cgroup, such that they die with the test.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::namespace::Namespace;
use crate::wait;

/// Where a process runs.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub namespace: &'a Namespace,
    pub cgroup: &'a Path,
}

/// Starts the command there. It is killed when the thread that starts it ends.
pub(crate) fn spawn(command: &mut Command, place: Place<'_>) -> Result<Child> {
    let members: PathBuf = place.cgroup.join("cgroup.procs");
    let members = OpenOptions::new()
        .write(true)
        .open(&members)
        .with_context(|| format!("open {}", members.display()))?;
    let namespace = place.namespace.file().try_clone()?;
    let parent = nix::unistd::getpid();
    place_between_fork_and_exec(command, move || enter(&members, &namespace, parent));
    command
        .spawn()
        .with_context(|| format!("start {}", command.get_program().display()))
}

#[expect(
    unsafe_code,
    reason = "a process can only be placed between its fork and its exec"
)]
fn place_between_fork_and_exec(
    command: &mut Command,
    enter: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: between fork and exec `enter` only makes system calls on descriptors opened before;
    // nothing allocates and no lock is taken.
    unsafe {
        command.pre_exec(enter);
    }
}

fn enter(mut members: &File, namespace: &File, parent: Pid) -> std::io::Result<()> {
    // Signals the caller has blocked to handle them itself are the program's own again.
    SigSet::empty().thread_set_mask()?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have died before the line above.
    if nix::unistd::getppid() != parent {
        return Err(std::io::ErrorKind::BrokenPipe.into());
    }
    // "0" means the process that writes.
    members.write_all(b"0")?;
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    Ok(())
}

/// Sends a signal to a child that was not waited for yet.
pub(crate) fn signal(child: &Child, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid fits"));
    kill(pid, signal).with_context(|| format!("send {signal} to {pid}"))
}

/// Waits for the end of a child, bounded.
pub(crate) fn wait_for_end(child: &mut Child, deadline: Duration) -> Result<ExitStatus> {
    let what = format!("process {} to end", child.id());
    wait::until(&what, deadline, || Ok(child.try_wait()?)).map(|(status, _)| status)
}
