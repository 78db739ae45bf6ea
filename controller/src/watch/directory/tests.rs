//! A folder, edited between looks.

use super::*;
use crate::watch::{Kind, ObjectName, authorization_policy::Body};

struct Folder {
    path: tempfile::TempDir,
    directory: Directory,
}

fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: p, namespace: shop}}
spec: {spec}
"
    )
}

const GOOD: &str = "{rules: [{}]}";
const BAD: &str = "{rulez: [{}]}";

impl Folder {
    fn new() -> Self {
        let path = tempfile::tempdir().unwrap();
        let directory = Directory::new(path.path().to_owned());
        Self { path, directory }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path.path().join(name)).unwrap();
    }

    /// Looks, and tells the changes in words.
    fn look(&mut self) -> Vec<String> {
        let update = self.directory.refresh(&BTreeSet::new()).unwrap();
        let mut words: Vec<String> = update
            .changes
            .iter()
            .map(|change| match change {
                ObjectChange::Set(object) => format!("set {}", object.key()),
                ObjectChange::Removed(key) => format!("removed {key}"),
            })
            .collect();
        words.sort();
        words
    }

    fn states(&self) -> Vec<DocumentState> {
        let listing = self.directory.listing().into_iter();
        listing.map(|status| status.state).collect()
    }

    fn instead(&self) -> Vec<Instead> {
        let instead = |state: DocumentState| match state {
            DocumentState::Refused { instead, .. } => Some(instead),
            DocumentState::Accepted | DocumentState::Ignored(_) => None,
        };
        self.states().into_iter().filter_map(instead).collect()
    }

    fn policy(&self) -> Body {
        let key = ObjectKey {
            kind: Kind::AuthorizationPolicy,
            name: ObjectName::new("shop", "p"),
        };
        match &self.directory.held[&key].1 {
            Object::AuthorizationPolicy(policy) => policy.body.clone(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn files_of_all_folders_are_read_and_others_are_not() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &namespace("a"));
    folder.write("deep/er/b.yml", &namespace("b"));
    folder.write(
        "c.json",
        r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "c"}}"#,
    );
    for other in [
        "d.txt",
        ".e.yaml.swp",
        ".f.yaml",
        "g.yaml~",
        "#h.yaml",
        ".git/i.yaml",
    ] {
        folder.write(other, &namespace("other"));
    }
    assert_eq!(
        folder.look(),
        ["set Namespace a", "set Namespace b", "set Namespace c"]
    );
    assert!(folder.look().is_empty());
}

#[test]
fn an_edit_changes_its_own_object_only() {
    let mut folder = Folder::new();
    folder.write(
        "a.yaml",
        &format!("{}---\n{}", namespace("a"), policy(GOOD)),
    );
    folder.look();
    folder.write(
        "a.yaml",
        &format!("{}---\n{}", namespace("a"), policy("{}")),
    );
    assert_eq!(folder.look(), ["set AuthorizationPolicy shop/p"]);
    folder.write("a.yaml", &namespace("a"));
    assert_eq!(folder.look(), ["removed AuthorizationPolicy shop/p"]);
    folder.remove("a.yaml");
    assert_eq!(folder.look(), ["removed Namespace a"]);
}

#[test]
fn a_bad_document_keeps_its_last_good_version_and_harms_no_other() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &policy(GOOD));
    folder.look();
    let good = folder.policy();
    folder.write(
        "a.yaml",
        &format!("{}---\n{}", policy(BAD), namespace("new")),
    );
    assert_eq!(folder.look(), ["set Namespace new"]);
    assert_eq!(folder.policy(), good);
    assert_eq!(folder.instead(), [Instead::LastGoodVersion]);
    folder.write("a.yaml", &policy("{}"));
    assert_eq!(
        folder.look(),
        ["removed Namespace new", "set AuthorizationPolicy shop/p"]
    );
    assert!(folder.instead().is_empty());
}

#[test]
fn a_bad_policy_without_an_earlier_version_denies() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &policy(BAD));
    assert_eq!(folder.look(), ["set AuthorizationPolicy shop/p"]);
    assert!(matches!(folder.policy(), Body::Unreadable(_)));
    assert_eq!(folder.instead(), [Instead::Denial]);
    folder.write("a.yaml", &policy(GOOD));
    assert_eq!(folder.look(), ["set AuthorizationPolicy shop/p"]);
    assert!(matches!(folder.policy(), Body::Readable { .. }));
}

#[test]
fn a_document_that_cannot_be_named_removes_nothing_of_its_file() {
    let mut folder = Folder::new();
    folder.write(
        "a.yaml",
        &format!("{}---\n{}", namespace("a"), policy(GOOD)),
    );
    folder.look();
    folder.write("a.yaml", &format!("{}---\nkind: [\n", namespace("a")));
    assert!(folder.look().is_empty());
    folder.write("a.yaml", "\u{0}");
    assert!(folder.look().is_empty());
    folder.write("a.yaml", &namespace("a"));
    assert_eq!(folder.look(), ["removed AuthorizationPolicy shop/p"]);
}

#[test]
fn of_two_files_with_one_object_the_holder_keeps_it_and_both_are_named() {
    let mut folder = Folder::new();
    folder.write("b.yaml", &policy(GOOD));
    folder.look();
    folder.write(
        "a.yaml",
        &format!("{}---\n{}", namespace("a"), policy("{}")),
    );
    let update = folder.directory.refresh(&BTreeSet::new()).unwrap();
    let [fault] = &update.faults[..] else {
        panic!("{update:?}");
    };
    let text = fault.to_string();
    assert!(
        text.contains("a.yaml:5") && text.contains("b.yaml:1"),
        "{text}"
    );
    assert!(matches!(folder.policy(), Body::Readable { rules, .. } if rules.len() == 1));
    folder.remove("b.yaml");
    assert_eq!(folder.look(), ["set AuthorizationPolicy shop/p"]);
    assert!(matches!(folder.policy(), Body::Readable { rules, .. } if rules.is_empty()));
    assert!(folder.instead().is_empty());
}

#[test]
fn the_same_object_twice_in_a_file_is_refused_once() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &format!("{}---\n{}", policy(GOOD), policy("{}")));
    folder.look();
    assert_eq!(folder.instead(), [Instead::Nothing]);
    assert!(matches!(folder.policy(), Body::Readable { rules, .. } if rules.len() == 1));
}

#[test]
fn a_file_that_is_being_written_is_left_as_it_was() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &namespace("a"));
    folder.look();
    folder.write("a.yaml", "");
    let writing = BTreeSet::from([folder.path.path().join("a.yaml")]);
    let update = folder.directory.refresh(&writing).unwrap();
    assert!(update.changes.is_empty());
    assert_eq!(folder.look(), ["removed Namespace a"]);
}

#[test]
fn a_mounted_config_map_is_followed_through_its_links() {
    let mut folder = Folder::new();
    folder.write("..1/a.yaml", &namespace("a"));
    folder.write("..2/a.yaml", &namespace("b"));
    let root = folder.path.path().to_owned();
    let link = |to: &str| {
        let partial = root.join("..data_tmp");
        std::os::unix::fs::symlink(to, &partial).unwrap();
        fs::rename(partial, root.join("..data")).unwrap();
    };
    link("..1");
    std::os::unix::fs::symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
    assert_eq!(folder.look(), ["set Namespace a"]);
    link("..2");
    assert_eq!(folder.look(), ["removed Namespace a", "set Namespace b"]);
}
