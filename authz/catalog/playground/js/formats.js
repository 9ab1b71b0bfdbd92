const numbers = new Intl.NumberFormat();

/** A number with separators. */
export const quantity = (value) => numbers.format(value);

/** A duration, given in milliseconds. */
export const duration = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);

/** JSON text of a value, or the text itself. */
export const jsonText = (value) => (typeof value === "string" ? value : JSON.stringify(value ?? {}, null, 2));

/** The local time `seconds` from now. */
export const clock = (seconds, now = new Date()) => localTime(new Date(now.getTime() + seconds * 1000), now);

/** A date in local time, without the day when it is today, and with seconds when it is less than an hour from now. */
export function localTime(date, now = new Date()) {
  const time = { hour: "2-digit", minute: "2-digit" };
  if (date.getTime() - now.getTime() < 3_600_000) time.second = "2-digit";
  const day = date.toDateString() === now.toDateString() ? {} : { weekday: "short", day: "numeric", month: "short" };
  return date.toLocaleString(undefined, { ...day, ...time });
}
