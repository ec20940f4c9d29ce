{{/* The name of this control plane in labels: default, or its revision. */}}
{{- define "lateen.rev" -}}
{{ .Values.revision | default "default" }}
{{- end -}}

{{/* What is appended to the name of what every revision has of its own. */}}
{{- define "lateen.suffix" -}}
{{ with .Values.revision }}-{{ . }}{{ end }}
{{- end -}}

{{- define "lateen.istiod" -}}
istiod{{ include "lateen.suffix" . }}
{{- end -}}

{{/* Labels of every object. The first is how an uninstall finds it again. */}}
{{- define "lateen.labels" -}}
install.lateen.dev/owning-resource: lateen
istio.io/rev: {{ include "lateen.rev" . | quote }}
app.kubernetes.io/part-of: istio
app.kubernetes.io/version: {{ .Chart.AppVersion | trunc 63 | trimSuffix "-" | quote }}
{{- end -}}

{{- define "lateen.tag" -}}
{{ .Values.global.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "lateen.lateendImage" -}}
{{ .Values.pilot.hub | default .Values.global.hub }}/{{ .Values.pilot.image }}:{{ .Values.pilot.tag | default (include "lateen.tag" .) }}
{{- end -}}

{{/* Where the pods of a workload go. */}}
{{- define "lateen.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "lateen.pullSecrets" -}}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The MeshConfig: what the mesh needs to find itself, and over it what the user says. */}}
{{- define "lateen.meshConfig" -}}
{{- $defaults := dict
  "rootNamespace" .Release.Namespace
  "trustDomain" "cluster.local"
  "enablePrometheusMerge" true
  "defaultConfig" (dict "discoveryAddress" (printf "%s.%s.svc:15012" (include "lateen.istiod" .) .Release.Namespace)) -}}
{{- if .Values.global.proxy.holdApplicationUntilProxyStarts }}
{{- $_ := set $defaults.defaultConfig "holdApplicationUntilProxyStarts" true }}
{{- end }}
{{- mustMergeOverwrite $defaults (deepCopy .Values.meshConfig) | toYaml }}
{{- end -}}
