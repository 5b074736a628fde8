//! Tests that the documents hang together: what a chapter or the README points to is there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::root;

/// The targets of links in a Markdown text that are paths, without their fragments.
fn local_links(text: &str) -> Vec<String> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains("://"))
        .map(str::to_owned)
        .collect()
}

/// All Markdown files below `dir`.
fn chapters(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(chapters(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found
}

#[test]
fn links_lead_somewhere() {
    let mut documents = chapters(&root().join("book/src"));
    documents.extend(["README.md", "wasm-examples/README.md"].map(|name| root().join(name)));
    for document in documents {
        let text = fs::read_to_string(&document).expect("a document");
        let folder = document.parent().expect("a folder");
        for link in local_links(&text) {
            assert!(
                folder.join(&link).exists(),
                "{}: {link} is not there",
                document.display()
            );
        }
    }
}

#[test]
fn every_chapter_is_in_the_summary() {
    let book = root().join("book/src");
    let listed: BTreeSet<_> =
        local_links(&fs::read_to_string(book.join("SUMMARY.md")).expect("the summary"))
            .into_iter()
            .map(|link| book.join(link))
            .collect();
    let written: BTreeSet<_> = chapters(&book)
        .into_iter()
        .filter(|path| !path.ends_with("SUMMARY.md"))
        .collect();
    assert_eq!(listed, written);
}

#[test]
fn links_are_found_in_markdown() {
    let text = "[a](b/c.md) and [d](https://e.org/f) and ![g](h.png#i) and [j](#k) and f(x)[0](no";
    assert_eq!(local_links(text), ["b/c.md", "h.png"]);
}
