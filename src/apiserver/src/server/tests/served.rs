//! What is served, as it changes at run time; resources that show another one's objects.

use std::error::Error;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use vaquita_api::{
    Object,
    field::Errors,
    names::{self as rules, Problems},
    registry::{Convert, Decoded, Part, Resource, Rules, SelectableField, Storage, Verb},
    schema::Schema,
    status::Status,
    table::Column,
};

use super::*;

const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

/// A kind as plain as there is, in the shape of config maps, whatever its group.
struct Plain(Schema);

impl Rules for Plain {
    fn schema(&self) -> &Schema {
        &self.0
    }
    fn has_generation(&self) -> bool {
        false
    }
    fn status_on_create(&self) -> bool {
        false
    }
    fn unconditional_update(&self) -> bool {
        true
    }
    fn create_on_update(&self) -> bool {
        false
    }
    fn name_check(&self) -> fn(&str) -> Problems {
        rules::dns1123_subdomain
    }
    fn decode(&self, mut value: Value) -> Result<Decoded, Box<dyn Error + Send + Sync>> {
        let unknown = self.0.normalise(&mut value)?.unknown;
        let object = value.as_object().cloned().unwrap_or_default();
        Ok(Decoded { object, unknown })
    }
    fn prepare_create(&self, _: &mut Object) {}
    fn prepare_update(&self, _: &mut Object, _: &Object, _: Part, _: Timestamp) {}
    fn validate_create(&self, _: &Object, _: &mut Errors) {}
    fn validate_update(&self, _: &Object, _: &Object, _: Part, _: &mut Errors) {}
    fn grace_period(&self, _: &Object, _: Option<i64>) -> i64 {
        0
    }
    fn columns(&self) -> &[Column] {
        &[Column::NAME]
    }
    fn row(&self, object: &Object, _: Timestamp) -> Vec<Value> {
        vec![vaquita_api::meta::name(object).into()]
    }
}

/// Config maps under another name.
fn like_config_maps(group: &str, plural: &str) -> Resource {
    Resource {
        group: group.to_owned(),
        version: "v1".to_owned(),
        kind: "Widget".to_owned(),
        list_kind: "WidgetList".to_owned(),
        plural: plural.to_owned(),
        singular: "widget".to_owned(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: true,
        verbs: Verb::ALL.to_vec(),
        subresources: Vec::new(),
        scale: None,
        selectable: vec![SelectableField::NAME, SelectableField::NAMESPACE],
        storage: Storage::Own,
        rules: Box::new(Plain(Schema::of::<ConfigMap>())),
    }
}

fn widget(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"size": "9"}})
}

#[tokio::test]
async fn resources_come_and_go_and_their_objects_stay() {
    let api = Api::start().await;
    assert_eq!(api.get(WIDGETS).await.refused().0, 404);
    let install = async || {
        let widgets = like_config_maps("example.com", "widgets");
        api.inner().install(vec![widgets]).await.unwrap();
    };
    install().await;
    api.post(WIDGETS, widget("a")).await.ok();
    let mut watch = api.watch(&format!("{WIDGETS}?watch=1")).await;
    assert_eq!(watch.brief().await, ("ADDED".to_owned(), "a".to_owned()));

    api.inner().uninstall("example.com", "widgets").await;
    assert!(watch.next().await.is_none());
    assert_eq!(api.get(WIDGETS).await.refused().0, 404);
    assert_eq!(api.get("/apis/example.com/v1").await.refused().0, 404);

    install().await;
    assert_eq!(names(&api.get(WIDGETS).await.ok()), ["a"]);
    api.post(WIDGETS, widget("b")).await.ok();
    assert_eq!(names(&api.get(WIDGETS).await.ok()), ["a", "b"]);
}

#[tokio::test]
async fn a_resource_that_is_replaced_ends_its_watches_and_keeps_its_objects() {
    let api = Api::start().await;
    let install = async |fields: &[&str]| {
        let mut widgets = like_config_maps("example.com", "widgets");
        for field in fields {
            let path = field.split('.').map(str::to_owned).collect();
            let field = SelectableField::custom((*field).to_owned(), path);
            widgets.selectable.push(field);
        }
        api.inner().install(vec![widgets]).await.unwrap();
    };
    install(&[]).await;
    api.post(WIDGETS, widget("a")).await.ok();
    let by_name = format!("{WIDGETS}?fieldSelector=metadata.name%3Da");
    assert_eq!(names(&api.get(&by_name).await.ok()), ["a"]);
    let mut watch = api
        .watch(&format!("{WIDGETS}?watch=1&resourceVersion=1"))
        .await;

    install(&["data.size"]).await;
    while watch.next().await.is_some() {}
    for (size, found) in [("9", vec!["a"]), ("8", vec![])] {
        let path = format!("{WIDGETS}?fieldSelector=data.size%3D{size}");
        assert_eq!(names(&api.get(&path).await.ok()), found);
    }
}

#[tokio::test]
async fn installing_under_way_loses_no_write() {
    let api = Arc::new(Api::start().await);
    let install = async |api: &Api| {
        let widgets = like_config_maps("example.com", "widgets");
        api.inner().install(vec![widgets]).await.unwrap();
    };
    install(&api).await;
    let writer = api.clone();
    let writing = tokio::spawn(async move {
        let mut made = Vec::new();
        for number in 0..200 {
            let name = format!("w{number:03}");
            let reply = writer.post(WIDGETS, widget(&name)).await;
            if reply.code == 201 {
                made.push(name);
            }
            tokio::task::yield_now().await;
        }
        made
    });
    for _ in 0..20 {
        api.inner().uninstall("example.com", "widgets").await;
        tokio::task::yield_now().await;
        install(&api).await;
    }
    let made = writing.await.unwrap();
    assert!(!made.is_empty());
    assert_eq!(names(&api.get(WIDGETS).await.ok()), made);
}

/// Shows `data` as `settings`.
struct Renamed;

fn rename(mut object: Object, api_version: &str, [from, to]: [&str; 2]) -> Object {
    object.insert("apiVersion".to_owned(), api_version.into());
    let kind = if api_version == "v1" {
        "ConfigMap"
    } else {
        "Widget"
    };
    object.insert("kind".to_owned(), kind.into());
    if let Some(value) = object.remove(from) {
        object.insert(to.to_owned(), value);
    }
    object
}

impl Convert for Renamed {
    fn from_stored(&self, object: Object) -> Result<Object, Status> {
        Ok(rename(
            object,
            "view.example.com/v1",
            ["data", "binaryData"],
        ))
    }

    fn to_stored(&self, object: Object) -> Result<Object, Status> {
        Ok(rename(object, "v1", ["binaryData", "data"]))
    }
}

#[tokio::test]
async fn a_view_shows_and_writes_what_another_resource_keeps() {
    const VIEW: &str = "/apis/view.example.com/v1/namespaces/default/configmaps";
    let api = Api::start().await;
    let storage = Storage::Shared {
        with: ("", "v1", "configmaps"),
        convert: Arc::new(Renamed),
    };
    let view = like_config_maps("view.example.com", "configmaps").kept(storage);
    api.inner().install(vec![view]).await.unwrap();
    let mut watch = api
        .watch(&format!("{VIEW}?watch=1&resourceVersion=1"))
        .await;
    let original = api.map("a").await;

    let shown = api.get(&format!("{VIEW}/a")).await.ok();
    assert_eq!(shown["apiVersion"], "view.example.com/v1");
    assert_eq!(
        (&shown["binaryData"], &shown["data"]),
        (&original["data"], &Value::Null)
    );
    assert_eq!(shown["metadata"], original["metadata"]);
    assert_eq!(watch.next().await.unwrap()["object"], shown);
    assert_eq!(api.get(VIEW).await.ok()["items"], json!([shown]));

    let patch = json!({"binaryData": {"k": "dw=="}});
    let patched = api
        .patch(&format!("{VIEW}/a"), "merge-patch", patch)
        .await
        .ok();
    assert_eq!(watch.next().await.unwrap()["object"], patched);
    let stored = api.get(&format!("{MAPS}/a")).await.ok();
    assert_eq!(stored["data"], json!({"k": "dw=="}));
    let deleted = api.delete(&format!("{VIEW}/a"), json!({})).await.ok();
    assert_eq!(deleted["status"], "Success");
    assert_eq!(watch.brief().await, ("DELETED".to_owned(), "a".to_owned()));
}
