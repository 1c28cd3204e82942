// Numbers and times for people.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** 1,234,567 bytes as "1.2 MiB", as the commands say it. */
export function bytes(count) {
  let value = Number(count) || 0;
  let unit = 0;
  while (value >= 1023.5 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value >= 100 || unit === 0 ? value.toFixed(0) : value.toFixed(1)} ${UNITS[unit]}`;
}

/** Bytes a second, in words; empty for none. */
export function rate(perSecond) {
  return perSecond > 0 ? `${bytes(perSecond)}/s` : "";
}

/** Seconds as "4.2 s", "3 min", "2 h 5 min", "3 d 4 h". */
export function duration(seconds) {
  if (!Number.isFinite(seconds) || seconds < 0) return "";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** How long ago a time was, in words; empty for none. Whole seconds: it is drawn again and again. */
export function age(time, now = Date.now()) {
  if (!time) return "";
  const seconds = Math.floor(Math.max(0, now - Date.parse(time)) / 1000);
  return seconds < 10 ? `${seconds} s` : duration(seconds);
}

/** A time on this machine's clock, with its day. */
export function clock(time) {
  return time ? new Date(time).toLocaleString() : "";
}

/** A time of day on this machine's clock, to the millisecond. */
export function timeOfDay(time) {
  return new Date(time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hour12: false });
}

/** So many things, in words: "1 export", "2 exports". */
export function counted(count, noun) {
  return `${count.toLocaleString()} ${noun}${count === 1 ? "" : "s"}`;
}

/** How long what runs will still take; empty where that cannot be told. */
export function timeLeft(job) {
  const left = job.bytes_total - job.bytes_done;
  return job.state === "writing" && job.bytes_per_second > 0 && left > 0 ? duration(left / job.bytes_per_second) : "";
}

/** The part of a whole, from 0 to 1. */
export function share(part, whole) {
  return whole > 0 ? Math.min(1, part / whole) : 0;
}

/** The last part of a path. */
export function basename(path) {
  return path.replace(/\/+$/, "").split("/").pop() || path;
}
