//! Which crate may depend on which: the arrows of the design.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;

/// The arrows between our own crates; what is not here is not allowed.
const ARROWS: [(&str, &[&str]); 16] = [
    ("ambit-ebpf-common", &[]),
    ("model", &[]),
    ("policy", &["model"]),
    ("identity", &["model"]),
    ("hbone", &["model", "identity"]),
    ("xds", &["model", "policy"]),
    ("telemetry", &["model"]),
    ("lifecycle", &[]),
    ("enrolment", &[]),
    ("cli", &["enrolment"]),
    ("redirect", &["ambit-ebpf-common"]),
    ("harness", &[]),
    ("netns", &["harness"]),
    ("xtask", &["harness", "netns"]),
    ("ztunnel", PRODUCT),
    ("controller", PRODUCT),
];

/// Products use crates, and never one another.
const PRODUCT: &[&str] = &[
    "model",
    "policy",
    "identity",
    "hbone",
    "xds",
    "telemetry",
    "lifecycle",
    "enrolment",
    "redirect",
];

/// Who alone may name a crate of others, and why.
const RESERVED: [(&str, &[&str], &str); 9] = [
    ("rustls", &["identity"], "TLS has one home"),
    ("tokio-rustls", &["identity"], "TLS has one home"),
    (
        "rcgen",
        &["identity", "controller"],
        "keys are made where they are kept",
    ),
    ("aws-lc-rs", &["identity"], "keys have one home"),
    (
        "kube",
        &["controller", "cli"],
        "daemons do not talk to the API server",
    ),
    (
        "k8s-openapi",
        &["controller", "cli"],
        "daemons do not talk to the API server",
    ),
    (
        "aya",
        &["redirect", "ambit-ebpf-common"],
        "the kernel programs have one loader",
    ),
    (
        "aya-log",
        &["redirect"],
        "the kernel programs have one loader",
    ),
    ("h2", &["hbone"], "the tunnel has one home"),
];

/// What the pure crates must not even reach.
const PURE: [&str; 2] = ["model", "policy"];
const IMPURE: [&str; 6] = ["tokio", "tonic", "rustls", "kube", "aya", "hyper"];

/// Every arrow of `cargo metadata` that the design does not have.
pub(super) fn judge(metadata: &Value) -> Result<Vec<String>> {
    let ours = members(metadata)?;
    let mut faults = Vec::new();
    for (name, dependencies) in &ours {
        faults.extend(own_arrows(name, dependencies, &ours));
        faults.extend(reserved(name, dependencies));
    }
    let reached = graph(metadata)?;
    for pure in PURE {
        for impure in IMPURE {
            if reaches(&reached, pure, impure) {
                faults.push(format!("{pure} reaches {impure}: it has to stay pure"));
            }
        }
    }
    Ok(faults)
}

type Members = BTreeMap<String, BTreeSet<String>>;

/// Each crate of ours with what its manifest names, for other uses than tests.
fn members(metadata: &Value) -> Result<Members> {
    let workspace = metadata["workspace_members"]
        .as_array()
        .context("workspace_members")?;
    let packages = metadata["packages"].as_array().context("packages")?;
    let mut members = Members::new();
    for package in packages
        .iter()
        .filter(|package| workspace.contains(&package["id"]))
    {
        let name = package["name"].as_str().context("a package's name")?;
        let dependencies = package["dependencies"].as_array().context("dependencies")?;
        let named = dependencies
            .iter()
            .filter(|dependency| dependency["kind"].as_str() != Some("dev"))
            .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned));
        members.insert(name.to_owned(), named.collect());
    }
    Ok(members)
}

fn own_arrows(name: &str, dependencies: &BTreeSet<String>, ours: &Members) -> Vec<String> {
    let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else {
        return vec![format!(
            "{name} has no place among the arrows of xtask/src/tidy/arrows.rs"
        )];
    };
    dependencies
        .iter()
        .filter(|to| ours.contains_key(*to) && !allowed.contains(&to.as_str()))
        .map(|to| format!("{name} depends on {to}, an arrow the design does not have"))
        .collect()
}

fn reserved(name: &str, dependencies: &BTreeSet<String>) -> Vec<String> {
    RESERVED
        .iter()
        .filter(|(library, users, _)| dependencies.contains(*library) && !users.contains(&name))
        .map(|(library, users, why)| format!("{name} uses {library}, {users:?} may: {why}"))
        .collect()
}

type Graph = BTreeMap<String, Vec<String>>;

/// Package names and what each is built with; two versions of a name count as one.
fn graph(metadata: &Value) -> Result<Graph> {
    let packages = metadata["packages"].as_array().context("packages")?;
    let names: BTreeMap<&str, &str> = packages
        .iter()
        .filter_map(|package| Some((package["id"].as_str()?, package["name"].as_str()?)))
        .collect();
    let mut graph = Graph::new();
    for node in metadata["resolve"]["nodes"]
        .as_array()
        .context("resolve.nodes")?
    {
        let id = node["id"].as_str().context("a node's id")?;
        let dependencies = node["deps"].as_array().context("a node's deps")?;
        let built_with = dependencies.iter().filter(|one| is_built(one));
        let named = built_with.filter_map(|one| names.get(one["pkg"].as_str()?).copied());
        let name = names.get(id).copied().unwrap_or(id).to_owned();
        graph
            .entry(name)
            .or_default()
            .extend(named.map(str::to_owned));
    }
    Ok(graph)
}

fn is_built(dependency: &Value) -> bool {
    let kinds = dependency["dep_kinds"].as_array();
    kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
}

fn reaches(graph: &Graph, from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut next = vec![from];
    while let Some(name) = next.pop() {
        if name == to {
            return true;
        }
        if seen.insert(name) {
            next.extend(graph.get(name).into_iter().flatten().map(String::as_str));
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A workspace of these crates, with these dependencies each.
    fn workspace(crates: &[(&str, &[&str])], libraries: &[(&str, &[&str])]) -> Value {
        let package = |(name, dependencies): &(&str, &[&str])| {
            let named: Vec<Value> = dependencies
                .iter()
                .map(|one| json!({"name": one, "kind": null}))
                .collect();
            json!({"id": name, "name": name, "dependencies": named})
        };
        let node = |(name, dependencies): &(&str, &[&str])| {
            let named: Vec<Value> = dependencies
                .iter()
                .map(|one| json!({"pkg": one, "dep_kinds": [{"kind": null}]}))
                .collect();
            json!({"id": name, "deps": named})
        };
        let all = || crates.iter().chain(libraries);
        json!({
            "workspace_members": crates.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            "packages": all().map(package).collect::<Vec<_>>(),
            "resolve": {"nodes": all().map(node).collect::<Vec<_>>()},
        })
    }

    #[track_caller]
    fn check(crates: &[(&str, &[&str])], libraries: &[(&str, &[&str])], fault: Option<&str>) {
        let faults = judge(&workspace(crates, libraries)).unwrap();
        match fault {
            None => assert_eq!(faults, Vec::<String>::new()),
            Some(fault) => assert_eq!(faults, [fault]),
        }
    }

    #[test]
    fn the_arrows_of_the_design_pass() {
        check(
            &[
                ("model", &[]),
                ("policy", &["model"]),
                ("ztunnel", &["policy", "model"]),
            ],
            &[],
            None,
        );
    }

    #[test]
    fn products_never_use_one_another() {
        let fault = "controller depends on ztunnel, an arrow the design does not have";
        check(
            &[("ztunnel", &[]), ("controller", &["ztunnel"])],
            &[],
            Some(fault),
        );
    }

    #[test]
    fn an_unknown_crate_has_to_be_given_its_place() {
        let fault = "gossip has no place among the arrows of xtask/src/tidy/arrows.rs";
        check(&[("gossip", &[])], &[], Some(fault));
    }

    #[test]
    fn a_reserved_library_has_one_user() {
        let fault = "ztunnel uses rustls, [\"identity\"] may: TLS has one home";
        let libraries: &[(&str, &[&str])] = &[("rustls", &[])];
        check(&[("ztunnel", &["rustls"])], libraries, Some(fault));
        check(&[("identity", &["rustls"])], libraries, None);
    }

    #[test]
    fn purity_is_judged_by_all_that_is_reached() {
        let libraries: &[(&str, &[&str])] = &[("clock", &["tokio"]), ("tokio", &[])];
        let fault = "policy reaches tokio: it has to stay pure";
        check(
            &[("policy", &["clock"]), ("model", &[])],
            libraries,
            Some(fault),
        );
    }
}
