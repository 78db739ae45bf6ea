//! What a source file must look like.

use std::path::Path;

const LONG: usize = 300;
const TOO_LONG: usize = 600;
const LONGEST_MAIN: usize = 100;

/// What is wrong with a file, and what is only worth a thought.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Verdict {
    pub(super) faults: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// Judges one file by its path in the checkout and its text.
pub(super) fn judge(path: &Path, text: &str) -> Verdict {
    let mut verdict = Verdict::default();
    let shown = path.display();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if !text.starts_with("//!") {
        verdict.faults.push(format!(
            "{shown}: does not open with //! saying what it does"
        ));
    }
    if name == "mod.rs" {
        verdict.faults.push(format!(
            "{shown}: a module is foo.rs beside foo/, never mod.rs"
        ));
    }
    let lines = lines_outside_tests(path, text);
    if name == "main.rs" && lines > LONGEST_MAIN {
        verdict.faults.push(format!(
            "{shown}: main.rs has {lines} lines, at most {LONGEST_MAIN}"
        ));
    }
    if lines > TOO_LONG {
        verdict.faults.push(format!(
            "{shown}: {lines} lines outside tests, at most {TOO_LONG}"
        ));
    } else if lines > LONG {
        verdict.warnings.push(format!(
            "{shown}: {lines} lines outside tests, better {LONG}"
        ));
    }
    verdict
}

/// Tests may be as long as they are: their own files, and a module at the end of another.
fn lines_outside_tests(path: &Path, text: &str) -> usize {
    let is_tests = |part: &str| part == "tests" || part == "tests.rs";
    if path.iter().any(|part| is_tests(&part.to_string_lossy())) && !is_product(path) {
        return 0;
    }
    text.lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .count()
}

/// The harness and the scenario lie in `tests/`, and are programs all the same.
fn is_product(path: &Path) -> bool {
    let mut parts = path.iter().map(|part| part.to_string_lossy());
    let product = parts.next().is_some_and(|first| first == "tests");
    product && parts.nth(1).is_some_and(|folder| folder == "src")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, text: &str, fault: Option<&str>) {
        let faults = judge(Path::new(path), text).faults;
        match fault {
            None => assert_eq!(faults, Vec::<String>::new()),
            Some(fault) => assert!(faults.iter().any(|told| told.contains(fault)), "{faults:?}"),
        }
    }

    fn lines(count: usize) -> String {
        "//! A file.\n".repeat(count)
    }

    #[test]
    fn a_file_opens_with_what_it_does() {
        check("crates/model/src/lib.rs", "//! The model.\n", None);
        check(
            "crates/model/src/lib.rs",
            "use std::fmt;\n",
            Some("does not open"),
        );
    }

    #[test]
    fn a_module_is_never_mod_rs() {
        check(
            "ztunnel/src/pod/mod.rs",
            "//! Pods.\n",
            Some("never mod.rs"),
        );
    }

    #[test]
    fn length_counts_outside_tests() {
        check("ztunnel/src/pod.rs", &lines(600), None);
        check("ztunnel/src/pod.rs", &lines(601), Some("601 lines"));
        check("ztunnel/src/pod/tests.rs", &lines(2000), None);
        check("crates/xds/tests/wire.rs", &lines(2000), None);
        check("tests/harness/src/app.rs", &lines(601), Some("601 lines"));
        let tested = format!("{}#[cfg(test)]\nmod tests {{\n{}", lines(599), lines(500));
        check("ztunnel/src/pod.rs", &tested, None);
    }

    #[test]
    fn main_is_a_short_story() {
        check("controller/src/main.rs", &lines(100), None);
        check(
            "controller/src/main.rs",
            &lines(101),
            Some("main.rs has 101"),
        );
    }

    #[test]
    fn a_long_file_is_warned_about() {
        let verdict = judge(Path::new("ztunnel/src/pod.rs"), &lines(301));
        assert_eq!((verdict.faults.len(), verdict.warnings.len()), (0, 1));
    }
}
