// Upload, job, events, checkpoints, chat, by OpenAI's own Node package. Writes one JSON document with what it was told.
// Environment: OPENAI_BASE_URL, OPENAI_API_KEY. Arguments: the base model, the training file, the job's extension.
import fs from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI from "openai";

globalThis.File ??= (await import("node:buffer")).File; // Node 18 keeps it there

const [model, path, extension] = process.argv.slice(2);
const client = new OpenAI();

const file = await client.files.create({ file: fs.createReadStream(path), purpose: "fine-tune" });
let job = await client.fineTuning.jobs.create({
  model,
  training_file: file.id,
  suffix: "node",
  seed: 7,
  metadata: { sdk: "node" },
  method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 2, batch_size: 4 } } },
  ...JSON.parse(extension),
});
const statuses = [job.status];
while (!["succeeded", "failed", "cancelled"].includes(job.status)) {
  await sleep(250);
  job = await client.fineTuning.jobs.retrieve(job.id);
  if (job.status !== statuses.at(-1)) statuses.push(job.status);
}
const events = [];
for await (const event of client.fineTuning.jobs.listEvents(job.id, { limit: 5 })) events.push(event.message);
const checkpoints = [];
for await (const one of client.fineTuning.jobs.checkpoints.list(job.id)) checkpoints.push(one.fine_tuned_model_checkpoint);

const messages = [{ role: "user", content: "Say the number 7 twice." }];
const whole = await client.chat.completions.create({ model: job.fine_tuned_model, messages, max_tokens: 8, temperature: 0 });
const stream = await client.chat.completions.create({
  model: job.fine_tuned_model, messages, max_tokens: 8, temperature: 0, stream: true,
});
let streamed = "";
for await (const chunk of stream) streamed += chunk.choices[0]?.delta?.content ?? "";
const results = await (await client.files.content(job.result_files[0])).text();
let missing = null;
try {
  await client.models.retrieve("ft:nobody:default::0");
} catch (error) {
  missing = { status: error.status, code: error.code, name: error.constructor.name };
}
console.log(JSON.stringify({
  job, statuses, events, checkpoints, whole: whole.choices[0].message.content, answered_by: whole.model, streamed,
  results: results.split("\n")[0], missing,
}));
