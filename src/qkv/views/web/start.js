// Starts the exported page: reads the data blocks, and mounts the page. The last part of the bundle.
// needs: page

const payloadHeader = JSON.parse(document.getElementById("qkv-header").textContent);
const payloadBody = document.getElementById("qkv-body").textContent;
// Offsets are multiples of three, so a chunk's base64 can be cut out; its end may bring a few more.
const cutPayload = (offset, length) =>
  base64Bytes(payloadBody.slice((offset / 3) * 4, Math.ceil((offset + length) / 3) * 4)).subarray(0, length);

const setPageTheme = (theme) => {
  document.documentElement.dataset.theme = theme;
};

mountPage(document.getElementById("qkv-page"), openPayload(payloadHeader, cutPayload), setPageTheme).then(
  (page) => {
    globalThis.qkvPage = page;
    document.documentElement.dataset.ready = "true";
  },
  (error) => {
    const message = `This page could not be opened: ${error.message}`;
    document.getElementById("qkv-page").replaceChildren(makeElement("p", { role: "alert", text: message }));
    throw error;
  },
);
