import { $ } from "./dom.js";

const TABLE = JSON.parse($("endpoints").textContent);

/** The endpoints in the order of the menu; see table.py for the fields of each. */
export const ENDPOINTS = TABLE.endpoints;

/** The arguments of the official clients, by call. */
export const ARGUMENTS = TABLE.arguments;

/** The endpoint with this id, such as `POST /api/chat`; the first one when there is none. */
export const endpointOf = (id) => ENDPOINTS.find((each) => each.id === id) ?? ENDPOINTS[0];
