//! Images that the node was given and cannot run. It says so in an annotation of its object, so that the scheduler sends
//! no more pods with them to nodes of its sort.

use std::collections::BTreeMap;

use tokio::sync::watch;

/// The annotation: a JSON object of image names, as pods have them, to what it takes to run them.
pub(crate) const ANNOTATION: &str = "vaquita.dev/refused-images";
/// What it takes to run an image that is no module.
pub(crate) const LINUX: &str = "linux";
/// How many images are told of, and how long their names may be together: as much as the scheduler hears.
const MOST: usize = 256;
const MOST_BYTES: usize = 32 << 10;

/// The images that were refused since the node started. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refused {
    images: watch::Sender<BTreeMap<String, &'static str>>,
}

impl Refused {
    /// Takes note of an image. When there are too many, the first by name go.
    pub(crate) fn add(&self, image: &str, kind: &'static str) {
        self.images.send_if_modified(|images| {
            if image.len() > MOST_BYTES || images.insert(image.to_owned(), kind) == Some(kind) {
                return false;
            }
            let length = |images: &BTreeMap<String, _>| images.keys().map(String::len).sum();
            while images.len() > MOST || MOST_BYTES < length(images) {
                let other = images.keys().find(|name| *name != image).cloned();
                other.and_then(|other| images.remove(&other));
            }
            true
        });
    }

    /// Tells of each further one.
    pub(crate) fn changes(&self) -> watch::Receiver<BTreeMap<String, &'static str>> {
        self.images.subscribe()
    }

    /// What the annotation says, if there is something to say.
    pub(crate) fn text(&self) -> Option<String> {
        let images = self.images.borrow();
        Some(&*images)
            .filter(|images| !images.is_empty())
            .and_then(|images| serde_json::to_string(images).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_told_once_and_not_without_bounds() {
        let refused = Refused::default();
        let mut changes = refused.changes();
        assert_eq!(refused.text(), None);
        refused.add("nginx:1", LINUX);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        refused.add("nginx:1", LINUX);
        assert!(!changes.has_changed().unwrap());
        assert_eq!(refused.text().as_deref(), Some(r#"{"nginx:1":"linux"}"#));
        for number in 0..2 * MOST {
            refused.add(&format!("image-{number}{}", "x".repeat(200)), LINUX);
        }
        let text = refused.text().unwrap();
        assert!(text.len() < 64 << 10, "{}", text.len());
        let last = format!("image-{}x", 2 * MOST - 1);
        assert!(text.contains(&last), "the newest is told");
        refused.add(&"x".repeat(MOST_BYTES + 1), LINUX);
        assert_eq!(refused.text(), Some(text));
    }
}
