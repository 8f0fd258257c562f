// Print each event:   npm install mqtt && node events.mjs [mqtt://HOST:PORT]
// In a browser the same library speaks to a broker's websocket listener, ws:// or wss://.
import mqtt from "mqtt";

const client = await mqtt.connectAsync(process.argv[2] ?? "mqtt://127.0.0.1:1883", { protocolVersion: 5 });
const seen = new Set(); // QoS 1 may deliver twice

client.on("message", (topic, payload) => {
  const message = JSON.parse(payload.toString());
  if (message.schema !== "gwstream.event/1" || seen.has(message.event.id)) return;
  seen.add(message.event.id);
  if (seen.size > 1000) seen.delete(seen.values().next().value);
  const { detector, coalescence, snr, parameters, quality } = message.posterior;
  const { median, p5, p95 } = parameters.chirp_mass;
  // gps_ns has more digits than a number of JavaScript holds: take gps, or the text
  console.log(`${message.event.id} ${detector} GPS ${coalescence.gps} SNR ${snr} ` +
    `${median} [${p5}, ${p95}] Msun ${[quality.verdict, ...quality.reasons].join(", ")}`);
});
await client.subscribeAsync("gwstream/+/event", { qos: 1 });
