use std::{cell::RefCell, collections::HashMap};

use proptest::prelude::*;

use super::*;

const NOW: i64 = 1_900_000_000;

/// Objects by kind, namespace and name.
#[derive(Default)]
struct Objects {
    live: RefCell<HashMap<(Bound, String, String), Live>>,
    secret: Option<Vec<u8>>,
}

impl Objects {
    fn put(&self, kind: Bound, namespace: &str, name: &str, uid: &str, deleted: Option<i64>) {
        let live = Live {
            uid: uid.to_owned(),
            deleted,
        };
        let key = (kind, namespace.to_owned(), name.to_owned());
        self.live.borrow_mut().insert(key, live);
    }

    fn usual() -> Self {
        let objects = Self::default();
        objects.put(Bound::ServiceAccount, "shop", "web", "a1", None);
        objects.put(Bound::Pod, "shop", "web-0", "p1", None);
        objects
    }
}

impl Lookup for Objects {
    fn find(&self, kind: Bound, namespace: &str, name: &str) -> Option<Live> {
        let key = (kind, namespace.to_owned(), name.to_owned());
        self.live.borrow().get(&key).cloned()
    }

    fn secret_token(&self, _namespace: &str, _name: &str) -> Option<Vec<u8>> {
        self.secret.clone()
    }
}

fn reference(name: &str, uid: &str) -> Reference {
    Reference {
        name: name.to_owned(),
        uid: uid.to_owned(),
    }
}

fn request<'r>(seconds: i64, bound: Option<BoundObject>) -> Request<'r> {
    Request {
        issuer: ISSUER,
        namespace: "shop",
        account: reference("web", "a1"),
        audiences: vec![ISSUER.to_owned()],
        seconds,
        bound,
        now: NOW,
        id: "id-1".to_owned(),
    }
}

fn to_pod() -> BoundObject {
    BoundObject {
        kind: Bound::Pod,
        reference: reference("web-0", "p1"),
        node: Some(reference("one", "n1")),
    }
}

struct Fixture {
    key: SigningKey,
    verifier: Verifier,
}

impl Fixture {
    fn new() -> Self {
        let (key, _) = SigningKey::generate().unwrap();
        Self {
            verifier: Verifier::new(key.clone(), ISSUER.to_owned()),
            key,
        }
    }

    fn verify(&self, token: &str, now: i64, objects: &Objects) -> Result<Verified, TokenError> {
        self.verifier
            .verify(token, &[ISSUER.to_owned()], now, objects)
            .unwrap()
    }
}

#[test]
fn a_token_names_its_account_pod_and_node() {
    let fixture = Fixture::new();
    let token = fixture
        .key
        .sign(&request(600, Some(to_pod())).claims())
        .unwrap();
    let verified = fixture.verify(&token, NOW, &Objects::usual()).unwrap();
    let user = verified.user;
    assert_eq!(&*user.name, "system:serviceaccount:shop:web");
    assert_eq!(&*user.uid, "a1");
    assert!(user.is_in("system:serviceaccounts:shop"));
    let extra = |key: &str| user.extra[&format!("authentication.kubernetes.io/{key}")].join(",");
    assert_eq!(extra("pod-name"), "web-0");
    assert_eq!(extra("pod-uid"), "p1");
    assert_eq!(extra("node-name"), "one");
    assert_eq!(extra("node-uid"), "n1");
    assert_eq!(extra("credential-id"), "JTI=id-1");
    assert_eq!(verified.audiences, [ISSUER]);
    assert_eq!(verified.warn_after, None);
}

#[test]
fn a_key_survives_being_written_down() {
    let (key, pem) = SigningKey::generate().unwrap();
    let again = SigningKey::from_pem(&pem).unwrap();
    assert_eq!(key.jwks(), again.jwks());
    let token = key.sign(&request(600, None).claims()).unwrap();
    let verifier = Verifier::new(again, ISSUER.to_owned());
    let wanted = [ISSUER.to_owned()];
    assert!(
        verifier
            .verify(&token, &wanted, NOW, &Objects::usual())
            .unwrap()
            .is_ok()
    );
    assert!(SigningKey::from_pem("nothing").is_err());
}

#[test]
fn the_token_that_pods_get_lives_for_a_year_and_warns_after_an_hour() {
    let claims = request(3607, Some(to_pod())).claims();
    assert_eq!(claims.exp, Some(NOW + 365 * 24 * 3600));
    assert_eq!(claims.kubernetes.warnafter, Some(NOW + 3607));
    let mut elsewhere = request(3607, Some(to_pod()));
    elsewhere.audiences = vec!["vault".to_owned()];
    assert_eq!(elsewhere.claims().exp, Some(NOW + 3607));
}

#[test]
fn times_and_audiences_hold() {
    let fixture = Fixture::new();
    let objects = Objects::usual();
    let token = fixture.key.sign(&request(600, None).claims()).unwrap();
    assert!(fixture.verify(&token, NOW + 660, &objects).is_ok());
    assert_eq!(
        fixture.verify(&token, NOW + 661, &objects),
        Err(TokenError::Expired)
    );
    assert_eq!(
        fixture.verify(&token, NOW - 61, &objects),
        Err(TokenError::NotYet)
    );
    let other = ["vault".to_owned()];
    let error = fixture
        .verifier
        .verify(&token, &other, NOW, &objects)
        .unwrap()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("token audiences [{ISSUER:?}] is invalid for the target audiences [\"vault\"]")
    );
}

#[test]
fn what_a_token_is_bound_to_must_live() {
    let fixture = Fixture::new();
    let token = fixture
        .key
        .sign(&request(600, Some(to_pod())).claims())
        .unwrap();
    let objects = Objects::usual();
    objects.put(Bound::Pod, "shop", "web-0", "p1", Some(NOW));
    assert!(fixture.verify(&token, NOW + 60, &objects).is_ok());
    assert_eq!(
        fixture.verify(&token, NOW + 61, &objects),
        Err(TokenError::Invalidated)
    );
    objects.put(Bound::Pod, "shop", "web-0", "p2", None);
    assert_eq!(
        fixture.verify(&token, NOW, &objects),
        Err(TokenError::Invalidated)
    );
    let objects = Objects::usual();
    objects.put(Bound::ServiceAccount, "shop", "web", "a2", None);
    assert_eq!(
        fixture.verify(&token, NOW, &objects),
        Err(TokenError::Invalidated)
    );
}

#[test]
fn others_keys_and_others_tokens_are_told_apart() {
    let (fixture, other) = (Fixture::new(), Fixture::new());
    let foreign = other.key.sign(&request(600, None).claims()).unwrap();
    assert_eq!(
        fixture.verify(&foreign, NOW, &Objects::usual()),
        Err(TokenError::Signature)
    );
    let mut claims = request(600, None).claims();
    claims.iss = "https://elsewhere".to_owned();
    let elsewhere = fixture.key.sign(&claims).unwrap();
    let verify = |token: &str| {
        fixture
            .verifier
            .verify(token, &[ISSUER.to_owned()], NOW, &Objects::usual())
    };
    assert!(verify(&elsewhere).is_none());
    assert!(verify("abcdef.0123456789abcdef").is_none());
    // Nobody may choose not to sign.
    let body = token_body(&request(600, None).claims());
    let unsigned = format!("{}.{body}.", base64(r#"{"alg":"none"}"#));
    assert!(matches!(verify(&unsigned), Some(Err(_))));
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
}

fn token_body(claims: &Claims) -> String {
    base64(&serde_json::to_string(claims).unwrap())
}

#[test]
fn a_token_in_a_secret_is_good_while_it_is_there() {
    let fixture = Fixture::new();
    let token = fixture
        .key
        .sign_for_secret("shop", "web-token", "web", "a1");
    let token = token.unwrap();
    let mut objects = Objects::usual();
    assert_eq!(
        fixture.verify(&token, NOW, &objects),
        Err(TokenError::Invalidated)
    );
    objects.secret = Some(token.clone().into_bytes());
    let verified = fixture.verify(&token, NOW, &objects).unwrap();
    assert_eq!(&*verified.user.name, "system:serviceaccount:shop:web");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is changed in a token, it is not a token any more.
    #[test]
    fn a_changed_token_is_refused(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.-]") {
        let fixture = Fixture::new();
        let token = fixture.key.sign(&request(600, None).claims()).unwrap();
        let at = at.index(token.len());
        let changed = format!("{}{to}{}", &token[..at], &token[at + 1..]);
        // The last character of each part has bits that mean nothing.
        let is_last = token[at + 1..].starts_with('.') || at + 1 == token.len();
        prop_assume!(changed != token && !is_last);
        let verified = fixture.verifier.verify(&changed, &[ISSUER.to_owned()], NOW, &Objects::usual());
        prop_assert!(!matches!(verified, Some(Ok(_))));
    }

    #[test]
    fn no_token_panics(token in "\\PC{0,60}") {
        let fixture = Fixture::new();
        let _ = fixture.verifier.verify(&token, &[], NOW, &Objects::default());
    }
}
