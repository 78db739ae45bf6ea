//! Real files, real inotify.

use std::{fs, path::Path};

use super::*;
use crate::watch::ObjectChange;

/// A promise of the product: an edit is served within a second. This only bounds the test.
const PATIENCE: Duration = Duration::from_secs(10);

struct Followed {
    folder: tempfile::TempDir,
    looks: mpsc::Receiver<Look>,
    _follower: Follower,
}

fn follow_folder(files: &[(&str, &str)]) -> (Look, Followed) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let (sender, looks) = mpsc::channel();
    let report = move |look| match sender.send(look) {
        Ok(()) => Listening::Yes,
        Err(_) => Listening::No,
    };
    let (first, follower) = follow(folder.path().to_owned(), report).unwrap();
    let followed = Followed {
        folder,
        looks,
        _follower: follower,
    };
    (first, followed)
}

impl Followed {
    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The changes of the next look that has any.
    fn changes(&self) -> Vec<ObjectChange> {
        loop {
            let look = self.looks.recv_timeout(PATIENCE).expect("no look in time");
            if !look.update.changes.is_empty() {
                return look.update.changes;
            }
        }
    }
}

const SHOP: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";

#[test]
fn files_written_replaced_and_removed_are_noticed() {
    let (first, followed) = follow_folder(&[("a.yaml", SHOP)]);
    assert_eq!(first.update.changes.len(), 1);
    let file = followed.path().join("a.yaml");
    fs::write(&file, SHOP.replace("shop}", "shop, labels: {a: b}}")).unwrap();
    assert!(matches!(followed.changes()[..], [ObjectChange::Set(_)]));

    let partial = followed.path().join(".a.yaml.tmp");
    fs::write(&partial, SHOP).unwrap();
    fs::rename(&partial, &file).unwrap();
    assert!(matches!(followed.changes()[..], [ObjectChange::Set(_)]));

    fs::remove_file(&file).unwrap();
    assert!(matches!(followed.changes()[..], [ObjectChange::Removed(_)]));
}

#[test]
fn a_folder_made_later_is_followed_too() {
    let (_, followed) = follow_folder(&[]);
    let deep = followed.path().join("deep/er");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("a.yaml"), SHOP).unwrap();
    assert!(matches!(followed.changes()[..], [ObjectChange::Set(_)]));
}

#[test]
fn a_file_is_read_when_its_writer_is_done() {
    use std::io::Write;
    let (_, followed) = follow_folder(&[("a.yaml", SHOP)]);
    let mut file = fs::File::create(followed.path().join("a.yaml")).unwrap();
    file.write_all(b"apiVersion: v1\nkind: Namespace\n")
        .unwrap();
    // Another file makes the folder be looked at meanwhile.
    fs::write(followed.path().join("b.yaml"), SHOP.replace("shop", "b")).unwrap();
    assert!(matches!(followed.changes()[..], [ObjectChange::Set(_)]));
    file.write_all(b"metadata: {name: shop, labels: {a: b}}\n")
        .unwrap();
    drop(file);
    assert!(matches!(followed.changes()[..], [ObjectChange::Set(_)]));
}
