//! Starts programs in a namespace and a cgroup, such that they die with the test.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
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
    let namespace = place.namespace.file().as_raw_fd();
    let parent = nix::unistd::getpid();
    let enter = {
        let members = members.try_clone()?;
        move || enter(&members, namespace, parent)
    };
    // SAFETY: between fork and exec only system calls on descriptors opened before are made;
    // nothing allocates and no lock is taken.
    #[expect(
        unsafe_code,
        reason = "a process can only be placed between its fork and its exec"
    )]
    unsafe {
        command.pre_exec(enter);
    }
    command
        .spawn()
        .with_context(|| format!("start {}", command.get_program().display()))
}

fn enter(mut members: &std::fs::File, namespace: RawFd, parent: Pid) -> std::io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have died before the line above.
    if nix::unistd::getppid() != parent {
        return Err(std::io::ErrorKind::BrokenPipe.into());
    }
    // "0" means the process that writes.
    members.write_all(b"0")?;
    // SAFETY: the caller keeps the namespace, and so its descriptor, alive over spawn.
    #[expect(
        unsafe_code,
        reason = "the closure must own its captures, a borrow would not do"
    )]
    let namespace = unsafe { BorrowedFd::borrow_raw(namespace) };
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
