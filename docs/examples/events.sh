#!/bin/sh
# Good events as lines of tab-separated values: GPS, detector, SNR, chirp mass with its 90 % interval, id.
#   sh events.sh [HOST [PORT]]            needs mosquitto-clients and jq
mosquitto_sub -V mqttv5 -q 1 -h "${1:-127.0.0.1}" -p "${2:-1883}" -t 'gwstream/+/event' |
  jq --unbuffered -r '
    select(.schema == "gwstream.event/1" and .posterior.quality.verdict == "good")
    | .posterior as $p | $p.parameters.chirp_mass as $m
    | [$p.coalescence.gps, $p.detector, $p.snr, $m.median, $m.p5, $m.p95, .event.id] | @tsv'
