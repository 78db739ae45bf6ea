//! Which documents are refused, and how precisely.

use super::*;

fn read_text(text: &str) -> Vec<Document> {
    read(&Path::new("mesh.yaml").into(), text)
}

#[track_caller]
fn check_refused(text: &str, wanted: &str) {
    let faults: Vec<String> = read_text(text)
        .into_iter()
        .filter_map(|document| match document.reading {
            Reading::Refused { fault, .. } => Some(fault.to_string()),
            Reading::Object(_) | Reading::Ignored(_) => None,
        })
        .collect();
    assert_eq!(faults, [wanted]);
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: only-web, namespace: shop}}
spec:
{spec}"
    )
}

#[test]
fn a_fault_names_file_line_and_field() {
    check_refused(
        &policy("  rules:\n  - from:\n    - source:\n        princpals: [web]\n"),
        "mesh.yaml:8: spec.rules[0].from[0].source: unknown field `princpals`, expected one of \
         `principals`, `notPrincipals`, `namespaces`, `notNamespaces`, `serviceAccounts`, \
         `notServiceAccounts`, `ipBlocks`, `notIpBlocks`, `requestPrincipals`, \
         `notRequestPrincipals`, `remoteIpBlocks`, `notRemoteIpBlocks`",
    );
}

#[test]
fn a_fault_counts_lines_from_the_top_of_the_file() {
    let namespace = "# the shop\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n";
    let bad = policy("  rules:\n  - from:\n    - source: {ipBlocks: [10.0.0.0/33]}\n");
    check_refused(
        &format!("{namespace}{bad}"),
        "mesh.yaml:12: spec.rules[0].from[0].source.ipBlocks[0]: \"10.0.0.0/33\" is neither an IP \
         address nor a CIDR range",
    );
}

const MEANINGLESS: &[(&str, &str)] = &[
    ("  action: MAYBE\n", "unknown variant `MAYBE`"),
    (
        "  rules: [{to: [{operation: {ports: [\"0\"]}}]}]\n",
        "is not a port",
    ),
    (
        "  rules: [{to: [{operation: {ports: [\"http\"]}}]}]\n",
        "is not a port",
    ),
    ("  rules: [{from: []}]\n", "from is empty"),
    ("  rules: [{from: [{source: {}}]}]\n", "source is empty"),
    ("  rules: [{to: [{operation: {}}]}]\n", "operation is empty"),
    (
        "  rules: [{when: [{key: source.prinicpal, values: [a]}]}]\n",
        "is unknown",
    ),
    (
        "  rules: [{when: [{key: source.ip}]}]\n",
        "neither values nor notValues",
    ),
    (
        "  rules: [{when: [{key: source.ip, values: [ten]}]}]\n",
        "neither an IP address",
    ),
    (
        "  rules: [{from: [{source: {principals: [\"\"]}}]}]\n",
        "is empty",
    ),
    (
        "  rules: [{from: [{source: {principals: [\"a*b\"]}}]}]\n",
        "first or last",
    ),
    (
        "  rules: [{from: [{source: {serviceAccounts: [\"a/b/c\"]}}]}]\n",
        "service account",
    ),
    ("  selectr: {}\n", "unknown field `selectr`"),
    (
        "  selector: {matchLabels: {app: a}}\n  targetRefs: [{kind: Gateway, name: w}]\n",
        "not both",
    ),
];

#[test]
fn values_that_cannot_mean_anything_are_refused() {
    for (spec, words) in MEANINGLESS {
        let documents = read_text(&policy(spec));
        let [
            Document {
                reading:
                    Reading::Refused {
                        fault,
                        key,
                        stand_in,
                    },
                ..
            },
        ] = &documents[..]
        else {
            panic!("{spec:?} was accepted: {documents:?}");
        };
        assert!(
            fault.to_string().contains(*words),
            "{fault} lacks {words:?}"
        );
        assert_eq!(
            key.as_ref().unwrap().to_string(),
            "AuthorizationPolicy shop/only-web"
        );
        assert!(stand_in.is_some(), "{spec:?} leaves its scope open");
    }
}

#[test]
fn an_unreadable_policy_stands_in_with_its_own_selector() {
    let documents = read_text(&policy(
        "  selector: {matchLabels: {app: cart}}\n  actoin: DENY\n",
    ));
    let Reading::Refused {
        stand_in: Some(Object::AuthorizationPolicy(policy)),
        ..
    } = &documents[0].reading
    else {
        panic!("{documents:?}");
    };
    assert_eq!(policy.selector.get("app").map(String::as_str), Some("cart"));
    assert!(matches!(
        policy.body,
        crate::watch::authorization_policy::Body::Unreadable(_)
    ));
}

#[test]
fn a_syntax_error_does_not_hide_the_next_document() {
    let text = "a: [\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    let documents = read_text(text);
    assert!(matches!(
        documents[0].reading,
        Reading::Refused { key: None, .. }
    ));
    assert!(matches!(documents[1].reading, Reading::Object(_)));
    assert_eq!(documents[1].place.line, 3);
}

#[test]
fn core_objects_are_refused_with_the_field_that_is_wrong() {
    check_refused(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: []}\n\
         status: {podIPs: [{ip: 10.0.0.999}]}\n",
        "mesh.yaml:1: status.podIPs[0].ip: \"10.0.0.999\" is not an IP address",
    );
    check_refused(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: Web_1}\nspec: {containers: []}\n",
        "mesh.yaml:1: metadata.name: \"Web_1\" is not a name of lower-case letters, digits, '-' \
         and '.'",
    );
}

#[test]
fn unknown_kinds_and_empty_documents_are_no_faults() {
    let documents = read_text("---\n# nothing\n---\napiVersion: batch/v1\nkind: Job\n---\n");
    assert_eq!(documents.len(), 1);
    assert!(matches!(&documents[0].reading, Reading::Ignored(what) if what.contains("Job")));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(?s).{0,200}") {
        read_text(&text);
    }

    #[test]
    fn no_policy_text_makes_the_reader_panic(spec in "[ \\n:\\[\\]{}a-zA-Z*/.\"-]{0,120}") {
        read_text(&policy(&spec));
    }
}
