"""What the official Python client does against a running cluster.

Run by tests/cluster/python.rs with KUBECONFIG set; each test works in a namespace of its own.
"""

import threading
import time
import unittest
import uuid

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException

PATIENCE = 60


def eventually(check):
    """The first value of `check` that is not None."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        found = check()
        if found is not None:
            return found
        time.sleep(0.05)
    raise AssertionError("not in time")


def config_map(name, labels=None, **data):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels=labels), data=data)


class Suite(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        config.load_kube_config()
        cls.core = client.CoreV1Api()

    def setUp(self):
        self.namespace = "py-" + uuid.uuid4().hex[:8]
        body = client.V1Namespace(metadata=client.V1ObjectMeta(name=self.namespace))
        self.core.create_namespace(body)
        self.addCleanup(self.core.delete_namespace, self.namespace)

    def refused(self, code, call, *args, **kwargs):
        with self.assertRaises(ApiException) as caught:
            call(*args, **kwargs)
        self.assertEqual(caught.exception.status, code, caught.exception.body)
        return client.ApiClient().deserialize(_Body(caught.exception.body), "V1Status")


class _Body:
    """What `deserialize` takes."""

    def __init__(self, data):
        self.data = data


class Objects(Suite):
    def test_life_of_an_object(self):
        made = self.core.create_namespaced_config_map(self.namespace, config_map("a", x="1"))
        self.assertEqual((made.data, made.metadata.namespace), ({"x": "1"}, self.namespace))
        made.data["y"] = "2"
        replaced = self.core.replace_namespaced_config_map("a", self.namespace, made)
        self.assertNotEqual(replaced.metadata.resource_version, made.metadata.resource_version)
        status = self.refused(409, self.core.replace_namespaced_config_map, "a", self.namespace, made)
        self.assertEqual(status.reason, "Conflict")
        patched = self.core.patch_namespaced_config_map("a", self.namespace, {"data": {"x": None}})
        self.assertEqual(patched.data, {"y": "2"})
        self.core.delete_namespaced_config_map("a", self.namespace)
        status = self.refused(404, self.core.read_namespaced_config_map, "a", self.namespace)
        self.assertEqual((status.reason, status.details.kind), ("NotFound", "configmaps"))

    def test_mistakes_are_told(self):
        self.core.create_namespaced_config_map(self.namespace, config_map("a"))
        status = self.refused(409, self.core.create_namespaced_config_map, self.namespace, config_map("a"))
        self.assertEqual(status.reason, "AlreadyExists")
        status = self.refused(422, self.core.create_namespaced_config_map, self.namespace, config_map("A"))
        self.assertEqual(status.details.causes[0].field, "metadata.name")
        self.refused(404, self.core.create_namespaced_config_map, "no-such-namespace", config_map("a"))

    def test_pages(self):
        for index in range(7):
            self.core.create_namespaced_config_map(self.namespace, config_map(f"m{index}", {"even": str(index % 2 == 0)}))
        names, token, pages = [], None, 0
        while True:
            page = self.core.list_namespaced_config_map(self.namespace, limit=3, _continue=token)
            names += [item.metadata.name for item in page.items]
            token, pages = page.metadata._continue, pages + 1
            if not token:
                break
            self.assertEqual(page.metadata.remaining_item_count, 8 - len(names))
        # kube-root-ca.crt is in every namespace.
        self.assertEqual((names, pages), (["kube-root-ca.crt"] + [f"m{index}" for index in range(7)], 3))
        even = self.core.list_namespaced_config_map(self.namespace, label_selector="even=True")
        self.assertEqual([item.metadata.name for item in even.items], ["m0", "m2", "m4", "m6"])
        one = self.core.list_namespaced_config_map(self.namespace, field_selector="metadata.name=m3")
        self.assertEqual(len(one.items), 1)

    def test_dry_run_and_field_validation(self):
        self.core.create_namespaced_config_map(self.namespace, config_map("a"), dry_run="All")
        self.refused(404, self.core.read_namespaced_config_map, "a", self.namespace)
        body = {"metadata": {"name": "a"}, "dta": {}}
        status = self.refused(
            400, self.core.create_namespaced_config_map, self.namespace, body, field_validation="Strict"
        )
        self.assertIn('unknown field "dta"', status.message)

    def test_collection(self):
        for index in range(3):
            self.core.create_namespaced_config_map(self.namespace, config_map(f"m{index}", {"mine": "yes"}))
        self.core.delete_collection_namespaced_config_map(self.namespace, label_selector="mine=yes")
        left = self.core.list_namespaced_config_map(self.namespace, label_selector="mine=yes")
        self.assertEqual(left.items, [])


class Watches(Suite):
    def test_changes_are_seen_in_order(self):
        start = self.core.list_namespaced_config_map(self.namespace).metadata.resource_version

        def work():
            self.core.create_namespaced_config_map(self.namespace, config_map("a", {"seen": "yes"}))
            self.core.patch_namespaced_config_map("a", self.namespace, {"data": {"x": "1"}})
            self.core.delete_namespaced_config_map("a", self.namespace)

        thread = threading.Thread(target=work)
        thread.start()
        stream = watch.Watch()
        seen = []
        for event in stream.stream(
            self.core.list_namespaced_config_map,
            self.namespace,
            resource_version=start,
            label_selector="seen=yes",
            timeout_seconds=PATIENCE,
        ):
            seen.append((event["type"], event["object"].data))
            if event["type"] == "DELETED":
                stream.stop()
        thread.join()
        self.assertEqual(seen, [("ADDED", None), ("MODIFIED", {"x": "1"}), ("DELETED", {"x": "1"})])


class Kinds(Suite):
    def test_workloads_scale(self):
        apps = client.AppsV1Api()
        labels = {"app": "web"}
        template = client.V1PodTemplateSpec(
            metadata=client.V1ObjectMeta(labels=labels),
            spec=client.V1PodSpec(containers=[client.V1Container(name="c", image="localhost/none")]),
        )
        spec = client.V1DeploymentSpec(
            replicas=0, selector=client.V1LabelSelector(match_labels=labels), template=template
        )
        body = client.V1Deployment(metadata=client.V1ObjectMeta(name="web"), spec=spec)
        made = apps.create_namespaced_deployment(self.namespace, body)
        self.assertEqual((made.metadata.generation, made.spec.strategy.type), (1, "RollingUpdate"))
        scale = apps.patch_namespaced_deployment_scale("web", self.namespace, {"spec": {"replicas": 0}})
        self.assertEqual((scale.kind, scale.status.selector), ("Scale", "app=web"))
        # Through the status, the specification stays as it is.
        status = apps.patch_namespaced_deployment_status("web", self.namespace, {"spec": {"replicas": 7}})
        self.assertEqual(status.spec.replicas, 0)

    def test_every_api_lists(self):
        calls = [
            (client.AppsV1Api().list_stateful_set_for_all_namespaces, ()),
            (client.BatchV1Api().list_cron_job_for_all_namespaces, ()),
            (client.AutoscalingV2Api().list_horizontal_pod_autoscaler_for_all_namespaces, ()),
            (client.PolicyV1Api().list_pod_disruption_budget_for_all_namespaces, ()),
            (client.NetworkingV1Api().list_ingress_for_all_namespaces, ()),
            (client.StorageV1Api().list_csi_driver, ()),
            (client.RbacAuthorizationV1Api().list_cluster_role, ()),
            (client.SchedulingV1Api().list_priority_class, ()),
            (client.NodeV1Api().list_runtime_class, ()),
            (client.CertificatesV1Api().list_certificate_signing_request, ()),
            (client.AdmissionregistrationV1Api().list_mutating_webhook_configuration, ()),
            (client.ApiextensionsV1Api().list_custom_resource_definition, ()),
            (client.FlowcontrolApiserverV1Api().list_flow_schema, ()),
            (client.CoordinationV1Api().list_lease_for_all_namespaces, ()),
            (client.DiscoveryV1Api().list_endpoint_slice_for_all_namespaces, ()),
        ]
        for call, args in calls:
            with self.subTest(call.__name__):
                self.assertTrue(call(*args).metadata.resource_version)

    def test_reviews(self):
        attributes = client.V1ResourceAttributes(verb="list", resource="pods", namespace=self.namespace)
        spec = client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
        review = client.V1SelfSubjectAccessReview(spec=spec)
        answer = client.AuthorizationV1Api().create_self_subject_access_review(review)
        self.assertTrue(answer.status.allowed)
        me = client.AuthenticationV1Api().create_self_subject_review(client.V1SelfSubjectReview())
        self.assertIn("system:masters", me.status.user_info.groups)

    def test_a_service_account_may_do_what_its_role_says(self):
        self.core.create_namespaced_service_account(
            self.namespace, client.V1ServiceAccount(metadata=client.V1ObjectMeta(name="reader"))
        )
        rbac = client.RbacAuthorizationV1Api()
        rule = client.V1PolicyRule(api_groups=[""], resources=["configmaps"], verbs=["get", "list"])
        role = client.V1Role(metadata=client.V1ObjectMeta(name="read"), rules=[rule])
        rbac.create_namespaced_role(self.namespace, role)
        binding = {
            "metadata": {"name": "read"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "read"},
            "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": self.namespace}],
        }
        rbac.create_namespaced_role_binding(self.namespace, binding)
        request = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[]))
        token = self.core.create_namespaced_service_account_token("reader", self.namespace, request)
        settings = client.Configuration.get_default_copy()
        settings.cert_file = settings.key_file = None
        settings.api_key = {"authorization": "Bearer " + token.status.token}
        reader = client.CoreV1Api(client.ApiClient(settings))
        reader.list_namespaced_config_map(self.namespace)
        status = self.refused(403, reader.list_namespaced_secret, self.namespace)
        self.assertIn(f'User "system:serviceaccount:{self.namespace}:reader" cannot list', status.message)


class Custom(Suite):
    def setUp(self):
        super().setUp()
        self.group = uuid.uuid4().hex[:8] + ".example.com"
        schema = {
            "type": "object",
            "properties": {
                "spec": {
                    "type": "object",
                    "required": ["size"],
                    "properties": {
                        "size": {"type": "integer", "minimum": 1},
                        "colour": {"type": "string", "default": "grey"},
                    },
                    "x-kubernetes-validations": [{"rule": "self.size < 10", "message": "too large"}],
                },
                "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            },
        }
        version = {
            "name": "v1",
            "served": True,
            "storage": True,
            "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {}},
        }
        definition = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "widgets." + self.group},
            "spec": {
                "group": self.group,
                "scope": "Namespaced",
                "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
                "versions": [version],
            },
        }
        extensions = client.ApiextensionsV1Api()
        extensions.create_custom_resource_definition(definition)
        self.addCleanup(extensions.delete_custom_resource_definition, "widgets." + self.group)

        def established():
            found = extensions.read_custom_resource_definition("widgets." + self.group)
            conditions = (found.status and found.status.conditions) or []
            return any(own.type == "Established" and own.status == "True" for own in conditions) or None

        eventually(established)

    def widget(self, **spec):
        return {
            "apiVersion": self.group + "/v1",
            "kind": "Widget",
            "metadata": {"name": "w"},
            "spec": spec,
        }

    def test_custom_objects(self):
        objects = client.CustomObjectsApi()
        place = (self.group, "v1", self.namespace, "widgets")
        made = objects.create_namespaced_custom_object(*place, self.widget(size=3, extra=True))
        self.assertEqual(made["spec"], {"size": 3, "colour": "grey"})
        status = self.refused(422, objects.create_namespaced_custom_object, *place, self.widget(size=12))
        self.assertIn("too large", status.message)
        objects.patch_namespaced_custom_object_status(*place, "w", {"status": {"ready": True}})
        self.assertEqual(objects.get_namespaced_custom_object(*place, "w")["status"], {"ready": True})
        self.assertEqual(len(objects.list_namespaced_custom_object(*place)["items"]), 1)

    def test_dynamic_client_applies(self):
        api = dynamic.DynamicClient(client.ApiClient())
        widgets = api.resources.get(api_version=self.group + "/v1", kind="Widget")
        body = self.widget(size=2)
        first = widgets.server_side_apply(body=body, name="w", namespace=self.namespace, field_manager="one")
        self.assertEqual(first.spec.size, 2)
        managers = [own.manager for own in first.metadata.managedFields]
        self.assertEqual(managers, ["one"])
        body["spec"]["size"] = 4
        with self.assertRaises(dynamic.exceptions.ConflictError):
            widgets.server_side_apply(body=body, name="w", namespace=self.namespace, field_manager="two")
        forced = widgets.server_side_apply(
            body=body, name="w", namespace=self.namespace, field_manager="two", force_conflicts=True
        )
        self.assertEqual(forced.spec.size, 4)


if __name__ == "__main__":
    unittest.main(verbosity=2)
