// Print each event:   npm install mqtt && node events.mjs [mqtt://HOST:PORT]
// In a browser the same library speaks to a broker's websocket listener, ws:// or wss://.
import mqtt from "mqtt";

const client = await mqtt.connectAsync(process.argv[2] ?? "mqtt://127.0.0.1:1883", { protocolVersion: 5 });
const told = new Map(); // the number each event came with: QoS 1 may deliver twice, and a higher one tells it anew

client.on("message", (topic, payload) => {
  const message = JSON.parse(payload.toString());
  if (message.schema !== "gwstream.event/1" || told.get(message.event.id) >= message.delivery.sequence) return;
  told.delete(message.event.id);
  told.set(message.event.id, message.delivery.sequence);
  if (told.size > 1000) told.delete(told.keys().next().value);
  const { detector, coalescence, snr, parameters, quality } = message.posterior;
  const { median, p5, p95 } = parameters.chirp_mass;
  // gps_ns has more digits than a number of JavaScript holds: take gps, or the text
  console.log(`${message.event.id} ${detector} GPS ${coalescence.gps} SNR ${snr} ` +
    `${median} [${p5}, ${p95}] Msun ${[quality.verdict, ...quality.reasons].join(", ")}`);
});
await client.subscribeAsync("gwstream/+/event", { qos: 1 });
