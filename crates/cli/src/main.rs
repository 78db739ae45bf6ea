//! `ambit`: asks the ztunnel of this node to take pods in, to let them go, and to tell of itself.
//!
//! Decides nothing; what is refused is told in the daemon's own words.

mod admin;
mod args;
mod enrol;
mod pods;

use std::{error::Error, process::ExitCode};

use args::{Args, Command};
use clap::Parser as _;

fn main() -> ExitCode {
    let Args { command } = Args::parse();
    match run(command) {
        Ok(said) => {
            print!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ambit: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Does what was asked, and returns what there is to print.
fn run(command: Command) -> Result<String, Box<dyn Error>> {
    Ok(match command {
        Command::Enrol(asked) => enrol::enrol(asked)?,
        Command::Unenrol(asked) => enrol::unenrol(&asked)?,
        Command::Pods(asked) => pods::list(&asked)?,
        Command::Log(asked) => admin::log(&asked)?,
        Command::Config(asked) => admin::config(&asked)?,
    })
}

/// An error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
