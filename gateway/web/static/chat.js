/** A conversation and how the events of an answer change it. Pure. */

/**
 * @typedef {object} Turn
 * @property {"user"|"assistant"} role
 * @property {string} text
 * @property {string} reasoning
 * @property {string[]} images data URLs
 * @property {"queued"|"waiting"|"streaming"|"done"|"stopped"|"failed"} state
 * @property {{title: string, text: string, retry: boolean}|null} end how an answer ended that is not whole
 * @property {number} askedAt seconds
 * @property {number|null} firstAt
 * @property {number|null} endedAt
 * @property {number|null} tokens
 * @property {string|null} finish
 */

/** @param {Partial<Turn>} fields @returns {Turn} */
function turn(fields) {
  return {
    role: "assistant", text: "", reasoning: "", images: [], state: "done", end: null, askedAt: 0, firstAt: null,
    endedAt: null, tokens: null, finish: null, ...fields,
  };
}

/** The conversation with one more question. @param {Turn[]} turns @param {string} text @param {string[]} images @param {number} now */
export function asked(turns, text, images, now) {
  return [...turns, turn({ role: "user", text, images }), turn({ state: "waiting", askedAt: now })];
}

/** The conversation without its last answer, which is awaited again. @param {Turn[]} turns @param {number} now */
export function askedAgain(turns, now) {
  return [...turns.slice(0, -1), turn({ state: "waiting", askedAt: now })];
}

/** The last answer is one of too many at once. @param {Turn[]} turns */
export function queued(turns) {
  return last(turns, { state: "queued" });
}

/** The question is sent. @param {Turn[]} turns @param {number} now */
export function sent(turns, now) {
  return last(turns, { state: "waiting", askedAt: now });
}

/**
 * What is sent: questions with their answers; one that ended early as far as it came.
 * @param {Turn[]} turns
 */
export function messagesOf(turns) {
  return turns.slice(0, -1).filter((one) => one.role === "user" || one.text !== "").map((one) => ({
    role: one.role,
    content: one.images.length === 0 ? one.text : [
      ...one.images.map((url) => ({ type: "image_url", image_url: { url } })),
      { type: "text", text: one.text },
    ],
  }));
}

/** @param {Turn[]} turns @param {Partial<Turn>} fields @returns {Turn[]} */
function last(turns, fields) {
  return [...turns.slice(0, -1), { ...turns[turns.length - 1], ...fields }];
}

/** One event of the stream. @param {Turn[]} turns @param {any} chunk @param {number} now @returns {Turn[]} */
export function received(turns, chunk, now) {
  const answer = turns[turns.length - 1];
  if (chunk.error) return failed(turns, chunk.error, now);
  const choice = chunk.choices?.[0];
  const text = choice?.delta?.content ?? "";
  const reasoning = choice?.delta?.reasoning_content ?? "";
  return last(turns, {
    text: answer.text + text,
    reasoning: answer.reasoning + reasoning,
    state: text || reasoning ? "streaming" : answer.state,
    firstAt: answer.firstAt ?? (text || reasoning ? now : null),
    finish: choice?.finish_reason ?? answer.finish,
    tokens: chunk.usage?.completion_tokens ?? answer.tokens,
  });
}

/** The stream has ended. @param {Turn[]} turns @param {number} now */
export function ended(turns, now) {
  const answer = turns[turns.length - 1];
  if (answer.state === "failed") return turns;
  if (answer.finish === null) return failed(turns, { code: "cut", message: "" }, now);
  return last(turns, { state: "done", endedAt: now });
}

/** @param {Turn[]} turns @param {number} now */
export function stopped(turns, now) {
  return last(turns, { state: "stopped", endedAt: now, end: { title: "Stopped", text: "", retry: true } });
}

/** @param {Turn[]} turns @param {{code?: string|null, message: string, retryable?: boolean}} error @param {number} now */
export function failed(turns, error, now) {
  const begun = turns[turns.length - 1].text !== "" || turns[turns.length - 1].reasoning !== "";
  return last(turns, { state: "failed", endedAt: now, end: endOf(error, begun) });
}

/**
 * What an error means to the person who waits for the answer.
 * @param {{code?: string|null, message: string, retryable?: boolean}} error
 * @param {boolean} begun
 */
export function endOf(error, begun) {
  switch (error.code) {
    case "worker_died":
      return error.retryable === false
        ? { title: "This request ended the model's process", text: `${error.message}. Other models go on.`, retry: false }
        : {
            title: begun ? "The model's process ended in the middle of this answer" : "The model's process ended",
            text: `${error.message}. ${begun ? "What it had written is above. " : ""}Other models go on, and this one starts again by itself.`,
            retry: true,
          };
    case "model_unavailable":
      return { title: "The model is not ready", text: error.message, retry: true };
    case "broker_unavailable":
      return { title: "The broker is away", text: `${error.message}. The page connects again by itself.`, retry: true };
    case "cut":
      return { title: "The connection ended", text: "The gateway is away, or a proxy closed the connection.", retry: true };
    default:
      return { title: "There is no answer", text: error.message, retry: error.retryable !== false };
  }
}

/** The line below an answer. @param {Turn} answer */
export function figuresOf(answer) {
  if (answer.firstAt === null) return "";
  const parts = [`first token after ${(answer.firstAt - answer.askedAt).toFixed(2)} s`];
  const took = (answer.endedAt ?? 0) - answer.firstAt;
  if (answer.tokens !== null) {
    parts.push(`${answer.tokens} tokens`);
    if (answer.tokens > 1 && took > 0) parts.push(`${((answer.tokens - 1) / took).toFixed(1)} tokens/s`);
  }
  if (answer.finish === "length") parts.push("ended at the limit of tokens");
  return parts.join(" · ");
}
