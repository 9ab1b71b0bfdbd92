// Browsers start no Worker for a page that is opened as a file. There, the search of the site runs in a hidden frame.
"use strict";

class FrameWorker extends EventTarget {
  #inner;

  constructor(url) {
    super();
    const frame = document.createElement("iframe");
    frame.hidden = true;
    frame.srcdoc = `<script>postMessage = (data) => frameElement.deliver(data)<\/script><script src="${url}"><\/script>`;
    frame.deliver = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
    this.#inner = new Promise((resolve) => frame.addEventListener("load", () => resolve(frame.contentWindow)));
    document.body.append(frame);
  }

  postMessage(data) {
    this.#inner.then((inner) => inner.dispatchEvent(new MessageEvent("message", { data })));
  }
}

if (location.protocol === "file:") window.Worker = window.IFrameWorker = FrameWorker;
