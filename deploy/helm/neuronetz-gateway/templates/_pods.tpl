{{/* The fields that every pod of the chart has. */}}
{{- define "gateway.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Spreads the pods of a component over nodes and zones. */}}
{{- define "gateway.spread" -}}
topologySpreadConstraints:
{{- range tuple "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector: {matchLabels: {{ include "gateway.selector" $ | fromYaml | toJson }}}
    matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}

{{- define "gateway.confined" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* A container with the gateway's own image: (dict "root" $ "arguments" (list "run" "authz") "tls" true). */}}
{{- define "gateway.program" -}}
image: {{ include "gateway.image" (dict "image" .root.Values.image "tag" .root.Chart.AppVersion) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
command: [neuronetz-gateway, {{ join ", " .arguments }}]
{{ include "gateway.confined" . }}
env:
{{- range $name, $value := .root.Values.settings }}
  - {name: {{ $name }}, value: {{ $value | toString | quote }}}
{{- end }}
{{- range $name, $value := include "gateway.settings" .root | fromYaml }}
  - {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- if and .tls .root.Values.serviceTls.enabled }}
  - {name: SERVICE_TLS_CERT_FILE, value: /etc/neuronetz-gateway/tls/tls.crt}
  - {name: SERVICE_TLS_KEY_FILE, value: /etc/neuronetz-gateway/tls/tls.key}
  - {name: SERVICE_TLS_CA_FILE, value: /etc/neuronetz-gateway/tls/ca.crt}
{{- end }}
{{- end }}

{{/* The settings that the chart decides. */}}
{{- define "gateway.settings" -}}
GATEWAY_ENV_FILE: /etc/neuronetz-gateway/secret/gateway.env
GATEWAY_BIND_HOST: "0.0.0.0"
GATEWAY_BIND_PORT: "8080"
GATEWAY_SHUTDOWN_GRACE_S: {{ .Values.shutdownGraceSeconds | toString | quote }}
AUTHZ_GRPC_LISTEN: "0.0.0.0:9001"
AUTHZ_HTTP_LISTEN: "0.0.0.0:9002"
METER_GRPC_LISTEN: "0.0.0.0:9003"
CONTROL_HTTP_LISTEN: "0.0.0.0:9004"
METRICS_LISTEN: "0.0.0.0:9100"
AUTHZ_GRPC_TARGETS: {{ include "gateway.host" (dict "root" . "component" "authz") }}:9001
AUTHZ_HTTP_TARGETS: {{ include "gateway.host" (dict "root" . "component" "authz") }}:9002
METER_GRPC_TARGETS: {{ include "gateway.host" (dict "root" . "component" "meter") }}:9003
ENVOY_CONFIG_DIR: /etc/neuronetz-gateway/envoy
ENVOY_ADMIN_LISTEN: "127.0.0.1:9901"
{{- end }}

{{- define "gateway.secretMount" -}}
{name: secret, mountPath: /etc/neuronetz-gateway/secret, readOnly: true}
{{- end }}
{{- define "gateway.secretVolume" -}}
{name: secret, secret: {secretName: {{ .Values.existingSecret | required "existingSecret: name the Secret that holds gateway.env" }}, defaultMode: 0440}}
{{- end }}
{{/* The secret of authz and meter, which may have a separate login. */}}
{{- define "gateway.serviceSecretVolume" -}}
{{- if .Values.serviceSecret -}}
{name: secret, secret: {secretName: {{ .Values.serviceSecret }}, defaultMode: 0440}}
{{- else -}}
{{ include "gateway.secretVolume" . }}
{{- end }}
{{- end }}
{{- define "gateway.tlsMount" -}}
{name: tls, mountPath: /etc/neuronetz-gateway/tls, readOnly: true}
{{- end }}

{{/* Changed settings replace the pods. */}}
{{- define "gateway.rollout" -}}
strategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
{{- end }}
