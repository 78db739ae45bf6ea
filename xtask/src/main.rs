//! `cargo xtask`: what is done with this repository, one command each.
//!
//! Commands install what they miss, say what they do, and exit non-zero when anything failed.

mod bench;
mod check;
mod demo;
mod ebpf;
mod interrupt;
mod privilege;
mod run;
mod setup;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "What is done with this repository")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what building and testing need
    Setup,
    /// Build the kernel programs
    Ebpf,
    /// Bring up a mesh on this machine and show that it keeps its promises
    Demo(demo::Arguments),
    /// Run every check and every test, those that need root included
    Test,
    /// Formatting, lints, licences, tidiness, documentation
    Check,
    /// The rules of the style guide that no other tool checks
    Tidy,
    /// Measure against no mesh and against a plain relay
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Setup => setup::run(),
        Task::Ebpf => ebpf::run(),
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Test => test::run(),
        Task::Check => check::run(),
        Task::Tidy => tidy::run(),
        Task::Bench(arguments) => bench::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
