//! Tests.

#[test]
fn definitions_keep_the_laws_of_all_kinds() {
    vaquita_api::testing::laws::hold(vec![crate::definition::resource()]);
}
